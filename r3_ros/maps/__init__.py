"""Clouds, floors, occupancy grids and saved maps."""
