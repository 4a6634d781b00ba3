"""Staging: the approaches by which files get into users' areas, and what they share."""
