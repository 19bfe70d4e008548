"""Measurements: what was accepted, how fast it was, whether a difference is one. `reports/` presents them."""
