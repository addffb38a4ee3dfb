"""Encoders of raw features: texts and videos as vectors, without Ray."""
