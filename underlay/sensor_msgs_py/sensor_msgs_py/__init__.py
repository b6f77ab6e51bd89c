"""Stand-in for the part of ``sensor_msgs_py`` that r3_ros uses: same names, same behaviour."""
