"""The one place where a model meets the streaming engine."""

from __future__ import annotations

from .config import MODEL_NAMES, R3Config
from .errors import ModelError
from .predictor import Predictor
from .streaming.engine import Engine


def load_engine(config: R3Config) -> Engine:
    """Return an engine with the predictor that the configuration names.

    :raises ConfigError: the configuration contradicts itself.
    :raises ModelError: the predictor is unknown, or cannot run on this machine.
    """
    config.validate()
    # The classical predictor runs on the CPU, and its bank is small: a device would only wait.
    device = 'cpu' if config.model.device == 'auto' else config.model.device
    predictor = load_predictor(config)
    try:
        return Engine(predictor, config, device)
    except ModelError:
        predictor.close()
        raise


def load_predictor(config: R3Config) -> Predictor:
    """Return the predictor that ``model.name`` names.

    :raises ModelError: unknown name, or a library it needs is missing.
    """
    if config.model.name == 'classical':
        try:
            from .classical.predictor import ClassicalPredictor
        except ImportError as error:
            raise ModelError(
                f"model 'classical' cannot be loaded: {error}. It needs OpenCV, NumPy and SciPy "
                'for Python; if they are there, build or install r3_ros again'
            ) from error
        return ClassicalPredictor(config.classical, with_depth=config.model.depth)
    raise ModelError(f"unknown model '{config.model.name}', known: {', '.join(MODEL_NAMES)}")
