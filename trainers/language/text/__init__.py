"""Records as tokens: the chat template, prompts, and the cache of them."""

VERSION = 1
"""Of the way in which records become tokens; part of every token cache's digest."""
