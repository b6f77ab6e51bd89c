"""ROS 2 layer: parameters, conversions, transforms and the lifecycle node. Thin by rule."""
