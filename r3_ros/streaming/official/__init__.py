"""What the R3 authors' code does after the network, for comparison with their results.

``pose_rules`` and ``pose_graph`` turn edges into poses, ``scale`` and ``bridge`` join segments,
``loop`` runs a whole stream by ``options`` around anything that answers as
:mod:`~r3_ros.frame_relations` asks, and ``engine`` puts it in the place of ours. Poses are
encoded (:mod:`~r3_ros.pose_encoding`) as world-to-camera, the other way round than everywhere
else. What is weak in these rules, which faults are kept and what we use instead is in
docs/streaming.md.
"""

from .pose_rules import (
    average_encodings,
    compose_encodings,
    GreedyOptions,
    resolve_greedy,
    resolve_online,
)

__all__ = [
    'average_encodings',
    'compose_encodings',
    'GreedyOptions',
    'resolve_greedy',
    'resolve_online',
]
