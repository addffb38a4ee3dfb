"""What every guest of a kind must keep: test classes to subclass."""
