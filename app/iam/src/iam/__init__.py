"""OpenID Connect issuer and group service for development and CI."""
