"""What operators change while the service runs: the maintenance mode (VOSI) and the levels of logs (logControl)."""
