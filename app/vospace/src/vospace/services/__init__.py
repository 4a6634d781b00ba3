"""What is allowed, in which order, and what is an error."""
