"""The R3 and Depth Anything 3 networks and their predictors.

Independent of ROS and streaming. ``variants`` lists the networks, ``network`` assembles them from
``layers``, ``backbone``, ``depth_head`` and ``camera_head``, ``weights`` loads them from files,
``cache`` holds the keys and values of frames, and ``r3_predictor`` implements the engine's
interface with R3. See docs/network.md.
"""
