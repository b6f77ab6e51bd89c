"""Waiting for the calibration and transforms that an image needs."""

from __future__ import annotations

from dataclasses import dataclass
import time

from ..core.config import R3Config
from ..core.errors import TransformError
from .inputs.camera_input import CameraInput, Received
from .outputs.messages import stamp_ns_of
from .pose_output import PoseOutput
from .tf.frame_tree import Base, TransformTree


@dataclass(eq=False)
class Readiness:
    """Decides whether an image can be processed yet. Worker thread.

    :ivar config: live parameters.
    """

    config: R3Config
    _camera: CameraInput
    _tree: TransformTree
    _pose_output: PoseOutput

    def base_for(self, received: Received) -> Base | None:
        """Return the base of an image's camera; None: calibration or transforms may still come.

        While the base does not change, the same object is returned.

        :raises TransformError: a transform is missing for too long; the image cannot be used.
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
        # Without base_frame the camera is the base, but the driver's frames may still come.
        if in_time and not self.config.base_frame and not self._tree.has_parent(frame):
            return None
        try:
            return self._tree.find_base(frame)
        except TransformError:
            if in_time:
                return None
            raise
