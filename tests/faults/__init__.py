"""A training process killed at random moments, and whether its run can tell (`python -m tests.faults`)."""
