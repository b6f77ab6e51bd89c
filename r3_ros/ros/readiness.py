"""Whether an image can be processed yet, or its calibration or a transform may still come."""

from __future__ import annotations

import time

from ..config import R3Config
from ..errors import TransformError
from .camera_input import CameraInput
from .conversions import Received
from .frame_tree import Base, TransformTree
from .messages import stamp_ns_of
from .placing import Placing


class Readiness:
    """Looks for what an image needs besides its pixels. Worker thread.

    :ivar config: live parameters.
    """

    def __init__(
        self, config: R3Config, camera: CameraInput, tree: TransformTree, pose_output: Placing
    ) -> None:
        self.config = config
        self._camera = camera
        self._tree = tree
        self._pose_output = pose_output

    def base_for(self, received: Received) -> Base | None:
        """Return the moving frame that an image's camera is on; None: wait a little longer.

        The one in use is returned as the same object for as long as it holds.

        :raises TransformError: a transform has not come for too long; the image is of no use.
        """
        if self._camera.waits_for_calibration():
            return None
        message, pose_output = received.message, self._pose_output
        frame, base = self._camera.optical_frame(message), pose_output.base
        if (
            base is None
            or frame != pose_output.optical_frame
            or self._tree.is_outdated(base, frame)
        ):
            return self._found(frame)
        self._tree.check_mount(base, frame)
        in_time = time.monotonic() - received.time_s < self.config.tf_lookup_timeout
        stamp_ns = stamp_ns_of(message.header.stamp)
        return None if in_time and pose_output.waits_for_robot(stamp_ns) else base

    def _found(self, frame: str) -> Base | None:
        in_time = self._tree.age_s() < self.config.tf_lookup_timeout
        # Without a named base the camera itself serves, but a driver's frames may still come.
        if in_time and not self.config.base_frame and not self._tree.has_parent(frame):
            return None
        try:
            return self._tree.find_base(frame)
        except TransformError:
            if in_time:
                return None
            raise
