"""Recorded runs: what they look like to a reader, and one file for each place that they are kept in."""
