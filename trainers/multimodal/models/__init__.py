"""The models that a table names."""
