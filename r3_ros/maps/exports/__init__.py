"""Saved maps in the formats of other programs."""
