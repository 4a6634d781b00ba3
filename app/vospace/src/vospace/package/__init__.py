"""Packages: several nodes as one tar or zip stream (`vos://cadc.nrc.ca~vospace/CADC/std/Pkg-1.0`)."""
