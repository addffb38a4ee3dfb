"""Tasks: what is asked of a graph, which examples there are, and how an answer is measured."""
