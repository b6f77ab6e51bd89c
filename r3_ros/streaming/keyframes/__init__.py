"""The keyframe bank: what is remembered, recalled and let go."""
