"""Ways to bring a file into a user's area."""
