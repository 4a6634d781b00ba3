"""The file system below the space."""
