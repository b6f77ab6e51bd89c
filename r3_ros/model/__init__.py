"""The R3 network and its Depth Anything 3 relatives: weights and arithmetic, no policy.

Knows nothing of ROS and nothing of streaming. ``variants`` lists the networks, ``network``
assembles them from ``layers``, ``backbone``, ``depth_head`` and ``camera_head``, ``weights``
fills them from files, ``cache`` holds what is remembered of frames, and ``r3_predictor`` puts R3
behind the engine's interface. See docs/network.md.
"""
