"""The words of VOSpace as types; knows nothing of HTTP, the file system or a database."""
