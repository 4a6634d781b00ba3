"""Kinds of jobs, as the job table names them."""

TRANSFERS = "transfers"
SYNCTRANS = "synctrans"
PACKAGE = "pkg"
BULK = "bulk-pull"
DELETE = "async-delete"
SETPROPS = "async-setprops"
