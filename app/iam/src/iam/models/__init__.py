"""Clients, users and errors."""
