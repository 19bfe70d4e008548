"""Bugs that released systems have shipped, put into a copy of this one to see tests fail: `make mutants`."""
