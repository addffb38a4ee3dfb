"""Models over the modalities of an example, and over those of what was retrieved for it."""
