"""Clouds, floors, occupancy grids, and maps on disk: what is in one, writing it whole or not at all, reading it without trust."""
