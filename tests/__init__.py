"""Tests; helpers are imported by their full name, `tests.…`."""
