"""Measured speed beside other implementations: `make bench`, or `python -m benchmarks`."""
