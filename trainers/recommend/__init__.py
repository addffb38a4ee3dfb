"""Recommendation: pairs of users and items, how answers are ranked, and what a model must beat."""
