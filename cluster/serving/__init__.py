"""Answers of a finished run over HTTP."""
