"""The errors of a predictor's relative poses: from what it knows of an edge to variances.

One form for all predictors, with constants that ``benchmarks/calibrate_covariance.py`` fits and
that lie as data beside each predictor. See ``docs/conventions.md#covariance``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
import json
from pathlib import Path
from typing import Any

import numpy as np

from .geometry import rotation_angle

#: Least standard deviations: of translation, and of rotation in radians.
_FLOORS = np.array([1e-4, 1e-5])
#: Evidence of an edge without a score, over the nominal one.
_NO_EVIDENCE = 1e5


@dataclass(frozen=True)
class ErrorModel:
    """Constants of the errors of relative poses. Pairs are for translation and rotation.

    The defaults are guesses for a predictor that nobody has calibrated.

    :ivar nominal: evidence of an edge with the reference score.
    :ivar reference: that score; None: the predictor takes it from the first frames of a stream.
    :ivar evidence: factors on the standard deviations that the edge's own evidence gives.
    :ivar extent: errors over the length and the angle of the edge.
    :ivar evidence_power: by which the level of the residuals multiplies the first, ...
    :ivar extent_power: ... and the second.
    :ivar drift: factors on the standard deviations of edges where poses are carried along them:
        the errors of edges through one map are not independent.
    :ivar drift_power: by which the level of the residuals multiplies these.
    :ivar summed: factors from the standard deviations by evidence, added up along the way to a
        pose, to the error of that pose.
    :ivar start: standard deviations of the world that the first frame defines, as its first edges
        see it, to be multiplied by the level of the residuals: rotation in radians, logarithm of
        the scale.
    """

    nominal: tuple[float, float] = (2e-3, 2e-3)
    reference: float | None = None
    evidence: tuple[float, float] = (1.0, 1.0)
    extent: tuple[float, float] = (0.02, 0.01)
    evidence_power: tuple[float, float] = (1.0, 1.0)
    extent_power: tuple[float, float] = (1.0, 1.0)
    drift: tuple[float, float] = (1.0, 1.0)
    drift_power: float = 1.0
    summed: tuple[float, float] = (1.0, 1.0)
    start: tuple[float, float] = (0.0, 0.0)

    @staticmethod
    def read(path: Path) -> ErrorModel:
        """Return the model of a JSON file, whose other entries tell how it was found."""
        constants: dict[str, Any] = json.loads(path.read_text())['constants']
        for name, value in constants.items():
            constants[name] = tuple(value) if isinstance(value, list) else value
        return ErrorModel(**constants)

    def write(self, path: Path, fitted_on: Iterable[str]) -> None:
        """Write the JSON file of :meth:`read`, with the names of the sequences behind it."""
        content = {'constants': asdict(self), 'fitted_on': sorted(fitted_on)}
        path.write_text(json.dumps(content, indent=2) + '\n')

    def evidence_of_scores(self, scores: np.ndarray, reference: float) -> np.ndarray:
        """Return the (N, 2) evidence of edges that are known by their scores alone.

        Networks of this kind learn scores ``c`` that minimise ``c * error - a * log c``, so the
        expected error is ``a / c``.

        :param scores: (N, 2), the confidences of the edges.
        """
        ratios = reference / np.maximum(scores, 1e-12)
        return self.nominal * np.minimum(ratios, _NO_EVIDENCE)

    def variances(
        self, evidence: np.ndarray, T_edges: np.ndarray, noise: np.ndarray
    ) -> np.ndarray:
        """Return the (N, 2) variances of an axis of edges.

        :param evidence: (N, 2) standard deviations that the edges' own evidence gives.
        :param T_edges: (N, 4, 4).
        :param noise: (N,) level of the residuals, see :class:`~r3_ros.core.datatypes.Edge`.
        """
        lengths = np.linalg.norm(T_edges[:, :3, 3], axis=1)
        extents = np.stack([lengths, rotation_angle(T_edges[:, :3, :3])], axis=1)
        by_extent = self.extent * extents * noise[:, None] ** np.array(self.extent_power)
        return self.by_evidence(evidence, noise) ** 2 + by_extent**2 + _FLOORS**2

    def by_evidence(self, evidence: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return the (N, 2) standard deviations that follow from the evidence alone."""
        found: np.ndarray = (
            self.evidence * evidence * noise[:, None] ** np.array(self.evidence_power)
        )
        return found
