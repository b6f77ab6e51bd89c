"""Loop closure: evidence, agreement, and the pose graph that is solved."""
