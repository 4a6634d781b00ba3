"""Recursive jobs: deletion and properties of whole trees (`async-delete`, `async-setprops`)."""
