"""Recorded and live input: from files and messages to undistorted frames, and their geometry."""
