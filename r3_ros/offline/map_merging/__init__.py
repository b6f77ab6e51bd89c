"""Merging of two saved maps of overlapping places (``r3 map merge``)."""
