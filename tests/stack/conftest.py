"""Tests of what this project deploys, against the deployed stack."""

from fixtures import anonymous, http, rse, stack, user

__all__ = ["anonymous", "http", "rse", "stack", "user"]
