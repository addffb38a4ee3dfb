"""A Ray cluster to submit jobs to: start or join it, follow a job, see it, end it."""
