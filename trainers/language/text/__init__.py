"""Records as tokens: the chat template, prompts, and the cache of them."""

VERSION = 1
"""Version of the way in which records become tokens; part of every token cache's digest."""
