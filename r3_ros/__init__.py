"""R3 for ROS 2: streaming poses, depth and coloured maps from one camera.

Public names come from the submodules; this file holds the version alone, because the interface
generator of a ROS build installs its own ``r3_ros`` package around the same folder.
"""

__version__ = '0.1.0'
