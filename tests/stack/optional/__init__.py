"""What a deployment has if its settings ask for it."""
