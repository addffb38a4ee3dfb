"""Files that the stage of exact embeddings leaves in its folder."""

VECTORS = "vectors"
"""A Zarr group: `h` [N, D] float32 and `score` [N] float32, row v the target's node v."""
IDS = "ids.parquet"
"""The id of each row."""
