"""What runs compiled: a batch is one call of `sample_batch`, without the GIL."""
