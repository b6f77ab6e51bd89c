"""The real node, fed over DDS in real time, and everything that it sends checked.

Needs rclpy and the built messages; they are imported where they are used.
"""
