"""Tables of the POSIX mapper."""
