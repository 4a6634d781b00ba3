"""Types of VOSpace, independent of HTTP, the file system and the database."""
