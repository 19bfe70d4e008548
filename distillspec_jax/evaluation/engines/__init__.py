"""Readers of acceptance, one file an engine: single answers and Prometheus counters, as acceptance records.

A reader takes over what its engine tells and nothing else; `docs/acceptance.md` has the names, and the
versions at which they were read. A new engine is a file with an `Engine`, and a line in `registry.py`.
"""
