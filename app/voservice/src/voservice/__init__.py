"""What the services of this deployment share."""
