"""Measurements that print JSON: the machine, the sizes, ours and a named peer of the same call."""
