"""Library of the services of this deployment."""
