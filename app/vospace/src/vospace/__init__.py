"""VOSpace 2.1 on a POSIX file system."""
