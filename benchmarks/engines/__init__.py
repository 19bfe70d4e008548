"""Other engines at work: what their counters say beside their answers, and what they accept beside us."""
