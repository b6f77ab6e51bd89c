"""How the time of a prediction is spread over the parts of a network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import time
from typing import Any

import torch

#: The functions of each part, in whichever networks have them.
_PARTS = {
    'transformer': ('backbone.relate', 'aggregator.forward', 'decode'),
    'depth head': ('head.forward', 'depth_head.forward'),
    'point head': ('point_head.forward', 'downstream_head1.forward', 'downstream_head2.forward'),
    'camera head': (
        *('cam_dec.project', 'cam_dec.fov', 'cam_dec.absolute', 'cam_dec.forward'),
        *('cam_dec.source_half', 'cam_dec.target_half'),
        *('camera_head.forward', 'pose_head.forward'),
    ),
    'matching': ('pairs',),
    'solver': ('solve',),
}


@contextmanager
def part_times(network: torch.nn.Module, device: torch.device) -> Iterator[dict[str, float]]:
    """Time the parts of a network while the context lasts.

    On a GPU each part is waited for, so that their sum may exceed the time of a prediction.

    :returns: milliseconds so far by part, to which each call adds; a part within another counts
        for itself alone. Parts that the network has not, or that were not called, are missing.
    """
    spent: dict[str, float] = defaultdict(float)
    within = [0.0]  # of each call that has begun, the milliseconds of the parts in it

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            _wait(device)
            began = time.perf_counter()
            within.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                _wait(device)
                whole = 1e3 * (time.perf_counter() - began)
                spent[part] += whole - within.pop()
                within[-1] += whole

        return run

    changed: list[tuple[Any, str]] = []
    try:
        for part, paths in _PARTS.items():
            for *folders, name in (path.split('.') for path in paths):
                owner: Any = network
                for folder in folders:
                    owner = getattr(owner, folder, None)
                function = getattr(owner, name, None)
                if function is not None:
                    setattr(owner, name, timed(part, function))
                    changed.append((owner, name))
        yield spent
    finally:
        for owner, name in changed:
            delattr(owner, name)  # what its class has shows again


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
