#!/bin/bash
# As postgres, with the server running: accounts with published passwords, then what /config asks for. Errors stop nothing.
for account in cadmin tapuser tapadm; do
  psql --command "CREATE USER $account WITH ENCRYPTED PASSWORD 'pw-$account'"
done
. /config/init-content-schemas.sh
for database in $CATALOGS; do
  createdb $database
  psql -d $database --command "CREATE EXTENSION IF NOT EXISTS citext"
  psql -d $database --command "CREATE EXTENSION IF NOT EXISTS pg_sphere"
  psql -d $database --command "CREATE SCHEMA uws AUTHORIZATION tapadm"
  psql -d $database --command "CREATE SCHEMA tap_schema AUTHORIZATION tapadm"
  psql -d $database --command "CREATE SCHEMA tap_upload AUTHORIZATION tapuser"
  for schema in $SCHEMAS; do
    psql -d $database --command "CREATE SCHEMA $schema AUTHORIZATION cadmin"
  done
done
