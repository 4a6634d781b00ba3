"""Measurements against named peers, each in one run on one machine, as ratios."""
