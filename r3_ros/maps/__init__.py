"""Saved maps and what is made of them: clouds, floors, occupancy grids, exports."""
