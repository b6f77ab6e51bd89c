"""An engine whose every bound is reached within some dozen frames."""

from r3_ros.core.config import R3Config
from r3_ros.core.parameter_fields import updated
from r3_ros.streaming.engine import Engine
from scripted import ScriptedPredictor

#: Few and small, so that every bound is reached within some dozen frames.
SMALL = {
    'keyframe.max_keyframes': 12,
    'keyframe.max_interval': 4,
    'stream.recent_frames': 3,
    'points.stride': 1,
    'points.min_confidence': 0.0,
    'points.confidence_percentile': 0.0,
    'points.edge_threshold': 0.0,
}


def engine_of(script=None, predictor=ScriptedPredictor, **options):
    changes = {**SMALL, **{name.replace('__', '.'): v for name, v in options.items()}}
    return Engine(predictor(script), updated(R3Config(), changes))
