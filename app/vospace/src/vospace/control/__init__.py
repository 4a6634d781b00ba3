"""Operation of the running service: its maintenance mode (VOSI) and the levels of loggers (logControl)."""
