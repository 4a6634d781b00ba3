"""prepare-data: stages files of a Rucio Storage Element into users' areas."""
