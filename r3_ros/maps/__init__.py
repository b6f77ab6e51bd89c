"""Clouds, floors, occupancy grids and saved maps.

Maps are written whole or not at all, and read without trust.
"""
