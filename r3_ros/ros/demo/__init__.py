"""Runs the real node over DDS and checks its outputs. Imports rclpy only where it is used."""
