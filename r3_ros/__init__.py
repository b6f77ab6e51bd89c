"""R3 for ROS 2: streaming poses, depth and coloured maps from one camera.

Public names come from the submodules; this file holds the version alone, and the path: a ROS
build installs the generated ``r3_ros.msg`` and ``r3_ros.srv`` in a folder of the same name, and
they must be found beside these sources when python runs in the source tree.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'
