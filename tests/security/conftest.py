"""Tests of what is defended, against the deployed stack, as an outsider would try it."""

from fixtures import anonymous, http, rse, stack, user

__all__ = ["anonymous", "http", "rse", "stack", "user"]
