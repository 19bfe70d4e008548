"""The drift study: a stream that turns from task to task, and three ways to keep its draft up to date."""
