"""Stand-in for the part of ``cv_bridge`` that r3_ros uses: same names, same behaviour."""

from .core import CvBridge, CvBridgeError

__all__ = ['CvBridge', 'CvBridgeError']
