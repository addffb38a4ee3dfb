"""Relations of what is nearest: exact retrieval as one more way in which rows come to be."""
