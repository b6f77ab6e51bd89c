"""A walk round a large circle with edges that drift, and how far off the poses are."""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Estimate
from r3_ros.core.parameter_fields import updated
from r3_ros.core.trajectory_file import PoseList
from r3_ros.evaluation.trajectory_errors import evaluate_trajectory
from r3_ros.streaming.engine import Engine
from scripted import circle, frames, Script, ScriptedPredictor, truth

#: Frames per second of the scripted camera, and how far it moves between two of them.
RATE_HZ = 10.0
STRIDE = 0.25
#: A keyframe every three frames; every one fits into the bank.
CONFIG = {
    'keyframe.overlap_threshold': 0.0,
    'keyframe.novelty_threshold': 0.0,
    'keyframe.max_interval': 3,
    'keyframe.max_keyframes': 300,
    'map.enabled': False,
}


@dataclass
class Walk:
    """The result of a walk.

    :ivar truth: (N, 4, 4) where the camera was.
    """

    engine: Engine
    estimates: list[Estimate]
    truth: np.ndarray

    @property
    def final(self) -> np.ndarray:
        """(N, 4, 4) poses after all corrections."""
        return self.engine.session.trajectory_view().T_final

    @property
    def odometry(self) -> np.ndarray:
        """(N, 4, 4) the increments, chained."""
        T = [np.eye(4)]
        for estimate in self.estimates[1:]:
            assert estimate.T_previous_camera is not None
            T.append(T[-1] @ estimate.T_previous_camera)
        return np.stack(T)

    def ate(self, poses: np.ndarray) -> float:
        """Return the root mean square position error after a similarity alignment."""
        stamps_ns = np.array([e.stamp_ns for e in self.estimates])
        own, other = PoseList(stamps_ns, poses), PoseList(stamps_ns, self.truth)
        return evaluate_trajectory(own, other).ate_rmse_m


def loop_script(length: float, **trouble) -> Script:
    """Return the script of a circle of some length; edges reach two units far."""
    period_s = length / STRIDE / RATE_HZ
    path = circle(length / (2.0 * math.pi), period_s)
    return Script(path=path, reach=2.0, depth_size=None, **trouble)


def engine_for(script: Script, predictor=ScriptedPredictor, **options) -> Engine:
    """Return an engine with the configuration above, and ``options`` over it."""
    changes = {**CONFIG, **{name.replace('__', '.'): value for name, value in options.items()}}
    return Engine(predictor(script), updated(R3Config(), changes))


def walk(script: Script, count: int, predictor=ScriptedPredictor, **options) -> Walk:
    """Walk, and apply all background results."""
    engine = engine_for(script, predictor, **options)
    try:
        estimates = [engine.step(frame) for frame in frames(count, RATE_HZ)]
        engine.drain()
    finally:
        engine.close()
    return walked(engine, estimates)


def walked(engine: Engine, estimates: Sequence[Estimate]) -> Walk:
    """Return the walk that led to these estimates."""
    path = engine.predictor.script.path
    exact = np.stack([truth(path, e.stamp_ns) for e in estimates])
    return Walk(engine, list(estimates), exact)
