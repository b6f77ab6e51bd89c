"""Retrieval of keyframes."""
