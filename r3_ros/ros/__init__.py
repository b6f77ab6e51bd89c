"""ROS 2 layer: the lifecycle node, its parameters, inputs, outputs, transforms and services."""
