"""The data sets that come along, each in a room of its own; `names` finds them."""
