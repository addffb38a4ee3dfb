"""Objectives of language stages: what follows a prompt in training, the loss, and what is predicted."""
