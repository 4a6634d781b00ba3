"""Endpoints of the issuer: HTTP in, one call of a service, HTTP out."""
