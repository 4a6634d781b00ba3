#!/bin/bash
# As postgres, before the server starts: the cluster, whose settings stay in the image.
base=/var/lib/pgsql/17
/usr/pgsql-17/bin/initdb -D $base/data --encoding=UTF8 --lc-collate=C --lc-ctype=C
for file in $base/*.conf; do
  rm -f "$base/data/${file##*/}"
  ln -s "$file" "$base/data/${file##*/}"
done
