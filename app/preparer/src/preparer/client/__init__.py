"""Client of the prepare-data API."""
