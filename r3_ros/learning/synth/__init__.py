"""Procedural worlds, rendered with exact poses, depth and intrinsics (needs torch)."""
