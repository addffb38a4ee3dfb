"""Stores from any typed edge lists, out of core: a description, its files, a counting sort by tail."""
