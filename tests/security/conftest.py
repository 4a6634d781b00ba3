"""Tests of the deployment's defences: attacks on the deployed stack from outside."""

from fixtures import anonymous, http, rse, stack, user

__all__ = ["anonymous", "http", "rse", "stack", "user"]
