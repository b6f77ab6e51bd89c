"""The focal length of a camera without calibration: one value, found once.

It is adjusted together with *all* keyframes of the segment, so that each observation counts once
and nothing keeps an earlier value. Each adjustment starts from the same guess and has more
keyframes than the last one. Its own standard deviation says when to stop: turns and parallax
determine the focal length, driving straight ahead hardly does, and then the guess holds it.
"""

from __future__ import annotations

import math

from .pinhole import Pinhole

#: Relative standard deviation of the guess: 65 degrees across the longer side, 48 to 90.
GUESS_SIGMA = 0.3
#: An estimate is used if its relative standard deviation is below this, and the one before, or the
#: start, differs by less than this factor: over a few keyframes a few wrong tracks can decide.
ACCEPTED_SIGMA = 0.1
AGREEMENT = math.log(1.1)
#: The estimate is final at this relative standard deviation, for a pixel of noise, ...
SETTLED_SIGMA = 0.01
#: ... which takes at least, and waits for at most, so many keyframes.
LEAST_KEYFRAMES = 8
MOST_KEYFRAMES = 48
#: Factor on the standard deviation from one segment to the next, and its least value there.
CARRIED = 3.0
LEAST_CARRIED = 0.05
#: Keyframes in the first adjustment, and their growth from one to the next.
FIRST_KEYFRAMES = 4
GROWTH = 1.33


class FocalEstimate:
    """When to estimate the focal length, and with which prior.

    :param guess: in pixels of the working image.
    :ivar settled: it does not change any more.
    """

    def __init__(self, guess: float) -> None:
        self._prior = self._newest = guess, GUESS_SIGMA
        # The last value found, used or not.
        self._last = guess
        self._keyframes = 0
        self._next = FIRST_KEYFRAMES
        self.settled = False

    @property
    def sigma(self) -> float:
        """Return the relative standard deviation of the value in use."""
        return self._newest[1]

    def is_due(self, keyframes: int) -> bool:
        """Return whether to estimate it with so many keyframes."""
        return not self.settled and keyframes >= self._next

    def prior(self, camera: Pinhole) -> tuple[float, float]:
        """Return mean and standard deviation of the factor on the camera's focal length."""
        focal, sigma = self._prior
        return focal / camera.focal, sigma * focal / camera.focal

    def begun(self, keyframes: int) -> None:
        """Note that it is being estimated with so many keyframes."""
        self._keyframes = keyframes
        self._next = max(keyframes + 2, round(GROWTH * keyframes))

    def started(self, focal: float) -> None:
        """Note the value that a segment starts with."""
        self._last = focal

    def accepts(self, focal: float, sigma: float) -> bool:
        """Return whether the result of the adjustment is to be used, and note whether it is final.

        :param sigma: relative standard deviation.
        """
        known = sigma < ACCEPTED_SIGMA
        accepted = known and abs(math.log(focal / self._last)) < AGREEMENT
        if known:
            self._last = focal
        if accepted:
            self._newest = focal, sigma
        certain = accepted and self._keyframes >= LEAST_KEYFRAMES and sigma < SETTLED_SIGMA
        self.settled = certain or self._keyframes >= MOST_KEYFRAMES
        return accepted

    def new_segment(self) -> None:
        """Go on with keyframes that share nothing with the earlier ones."""
        focal, sigma = self._newest
        # The camera was lost: what it was lost with may be wrong.
        self._prior = focal, min(max(CARRIED * sigma, LEAST_CARRIED), GUESS_SIGMA)
        self._next = FIRST_KEYFRAMES
