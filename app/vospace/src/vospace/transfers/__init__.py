"""Transfers (VOSpace 2.1 section 3.6): negotiated by the client, or carried out by the service."""
