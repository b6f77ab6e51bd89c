"""Streaming: memory, pose resolution, gate, map and the engine. Knows no model and no ROS."""
