"""Published weights, their download, and networks loaded from files."""
