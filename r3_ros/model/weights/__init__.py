"""Weights: which there are, fetching them, and networks from their files."""
