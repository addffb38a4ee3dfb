"""Preference training: pairs of a model's own answers, and what is learnt of which is better."""
