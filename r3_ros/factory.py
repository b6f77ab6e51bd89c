"""Builds engines and predictors from a configuration: where models meet the streaming engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import logging

from .core.config import PAIR_NAMES, R3Config
from .core.errors import ConfigError, ModelError, R3Error
from .core.predictor import MetricDepth, Predictor, WindowPredictor
from .streaming.engine import Engine
from .streaming.keyframes.retrieval import array_module


def load_engine(config: R3Config) -> Engine:
    """Return an engine with the predictor named by the configuration.

    :raises ConfigError: the configuration contradicts itself.
    :raises ModelError: the predictor is unknown, its weights are missing or wrong, or it cannot
        run on this machine.
    """
    config.validate()
    # First, since it may fail, and the predictor may take long to load.
    metric = load_metric_depth(config) if config.scale.source == 'model' else None
    relocaliser = load_relocaliser(config) if config.relocalise.model else None
    predictor = load_predictor(config)
    try:
        device = search_device(config, predictor)
        return Engine(predictor, config, device, metric, relocaliser)
    except R3Error:
        predictor.close()
        raise


def search_device(config: R3Config, predictor: Predictor) -> str:
    """Return where keyframes are searched: ``model.device``, ``auto`` being the predictor's.

    With ``auto`` a GPU without CuPy is no error: torch may run there all the same.
    """
    if config.model.device != 'auto':
        return config.model.device
    device = predictor.info.device
    try:
        array_module(device)
    except ModelError as error:
        logging.getLogger(__name__).warning('keyframes are searched on the host: %s', error)
        return 'cpu'
    return device


def load_predictor(config: R3Config) -> Predictor:
    """Return the predictor named by ``model.name``.

    :raises ModelError: its weights are missing or wrong, or a required library is missing.
    """
    if config.model.name == 'classical':
        from .classical.classical_predictor import ClassicalPredictor

        own = config.classical
        if config.input.readout_time:
            own = replace(own, correct_rolling_shutter=False)
        return ClassicalPredictor(own, with_depth=config.model.depth)
    with _libraries_for(f"model '{config.model.name}'"):
        from .model.loading import load_streaming
    return load_streaming(config.model, config.memory)


def load_relocaliser(config: R3Config) -> Predictor:
    """Return the network named by ``relocalise.model``, without depth.

    :raises ModelError: its weights are missing or wrong, or a required library is missing.
    """
    own = config.relocalise
    with _libraries_for(f"relocalise.model '{own.model}'"):
        from .model.loading import load_streaming
    # Sizes and graphs are those of the predictor's network.
    model = replace(
        config.model,
        name=own.model,
        checkpoint=own.checkpoint,
        image_size=0,
        depth=False,
        cuda_graphs=False,
    )
    return load_streaming(model, config.memory, ('relocalise.model', 'relocalise.checkpoint'))


def load_metric_depth(config: R3Config) -> MetricDepth:
    """Return the network that estimates depth in metres.

    :raises ModelError: its weights are missing or wrong, or a required library is missing.
    """
    with _libraries_for("scale.source 'model'"):
        from .model.loading import load_metric
    return load_metric(config.model)


def load_window_predictor(config: R3Config) -> WindowPredictor:
    """Return the predictor of windows named by ``model.name``.

    :raises ConfigError: the configuration contradicts itself, or the model has no full context.
    :raises ModelError: its weights are missing or wrong, or a required library is missing.
    """
    config.validate()
    if config.model.name in ('classical', *PAIR_NAMES):
        raise ConfigError(
            'offline mode needs a network of many views, model.name is '
            f"'{config.model.name}': add --model r3 or da3_base, or run without --mode offline"
        )
    if config.scale.source not in ('none', 'fixed'):
        raise ConfigError(
            f"parameter 'scale.source' is '{config.scale.source}', which measures a stream, frame "
            'by frame: run without --mode offline, or set scale.source to none or fixed'
        )
    with _libraries_for(f"model '{config.model.name}'"):
        from .model.loading import load_windows
    return load_windows(config.model, config.offline)


@contextmanager
def _libraries_for(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f'{what} needs libraries of the networks ({error}): pip install "r3_ros[r3]"'
        ) from error
