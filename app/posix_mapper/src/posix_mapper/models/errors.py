"""Errors of the POSIX mapper."""

from __future__ import annotations


class BadParameter(ValueError):
    """A parameter that cannot be read."""


class InvalidGroup(BadParameter):
    """The text is no group identifier."""


class IdsExhausted(Exception):
    """No free uid or gid was found among those that the sequence gave."""
