"""Errors of the POSIX mapper."""

from __future__ import annotations


class BadParameter(ValueError):
    """A malformed parameter."""


class InvalidGroup(BadParameter):
    """The text is not a group identifier."""


class IdsExhausted(Exception):
    """The sequence yielded no free uid or gid."""
