"""The rules of the issuer."""
