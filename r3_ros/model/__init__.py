"""The R3 network and its Depth Anything 3 relatives: weights and arithmetic, no policy.

Knows nothing of ROS and nothing of streaming. ``variants`` lists the networks, ``network``
assembles them from ``layers``, ``backbone``, ``depth_head`` and ``camera_head``, ``checkpoint``
fills them from a file, and ``predictor`` puts R3 behind the engine's seam. See docs/network.md.
"""
