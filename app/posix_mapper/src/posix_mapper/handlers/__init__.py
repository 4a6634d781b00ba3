"""Endpoints of the POSIX mapper: HTTP in, one call of a service, HTTP out."""
