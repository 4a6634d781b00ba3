"""Users, groups and errors."""
