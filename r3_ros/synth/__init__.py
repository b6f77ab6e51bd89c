"""Procedural worlds with exact poses, depth and intrinsics, rendered in torch."""
