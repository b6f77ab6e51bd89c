"""Which frames become keyframes.

A frame is compared with the keyframes that it is related to by the overlap of the views (the
default) or by pose tokens; where its pose is not known, by its descriptor with all keyframes.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ...core.config import KeyframeConfig
from .bank import KeyframeBank


@dataclass(frozen=True, eq=False)
class Candidate:
    """A frame that may become a keyframe.

    :ivar descriptor: (D,) unit vector, as ``pose_token``, which may be None.
    :ivar related: frames that it is related to.
    :ivar T_world_camera: (4, 4) pose; None if it is not known in the world.
    """

    descriptor: np.ndarray
    related: Collection[int]
    T_world_camera: np.ndarray | None = None
    pose_token: np.ndarray | None = None


class Admission:
    """Counts frames and selects keyframes."""

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self._since_admission = 0
        self._due = False

    def foresees(self, bank: KeyframeBank, candidate: Candidate) -> bool:
        """Return whether the next frame will probably be admitted, before it is predicted."""
        return self._due or self._wanted(bank, candidate)

    def wants(self, bank: KeyframeBank, candidate: Candidate, complete: bool = True) -> bool:
        """Count the frame, and return whether it should become a keyframe.

        :param complete: it has all that a keyframe needs; else the next frame is due instead.
        """
        wanted = self.foresees(bank, candidate)
        self._since_admission += 1
        self._due = wanted and not complete
        return wanted and complete

    def admitted(self) -> None:
        """Restart the count: the frame has become a keyframe, for whatever reason."""
        self._since_admission = 0
        self._due = False

    def _wanted(self, bank: KeyframeBank, candidate: Candidate) -> bool:
        config = self.config
        if not len(bank) or self._since_admission + 1 >= config.max_interval:
            return True
        if config.mode == 'pose_token':
            token = candidate.pose_token
            if token is None:
                return False
            return bank.token_similarity(token, candidate.related) < config.token_threshold
        if candidate.T_world_camera is not None:
            overlap = bank.overlap(candidate.T_world_camera, candidate.related)
            if overlap is not None:
                return overlap < config.overlap_threshold
        return bank.similarity(candidate.descriptor) < config.novelty_threshold
