"""Guests that live in the tests alone: one of each kind, as small as it can be."""
