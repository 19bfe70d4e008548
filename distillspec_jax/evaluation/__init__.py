"""Evaluation: what was accepted, how fast it was, whether a difference is one, and pages that say so."""
