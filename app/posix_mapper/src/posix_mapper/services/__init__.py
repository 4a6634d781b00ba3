"""The rules of the POSIX mapper."""
