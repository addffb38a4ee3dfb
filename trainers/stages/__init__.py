"""The stages of a run, each described once: what it reads and leaves, what it takes, and how it runs."""
