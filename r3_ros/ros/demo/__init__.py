"""Runs the real node over DDS in real time and checks its outputs.

Needs rclpy and the built messages; they are imported where they are used.
"""
