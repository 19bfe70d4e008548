"""Benchmarks of `distillspec serve`: throughput beside offline decoding, and hours of hostile traffic."""
