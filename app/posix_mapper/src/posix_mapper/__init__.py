"""Assigns users and groups the uid and gid under which they own files."""
