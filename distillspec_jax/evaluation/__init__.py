"""Measurements: what was accepted, how fast it was, and whether a difference is one (`reports/` tells of them)."""
