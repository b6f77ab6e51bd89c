"""How wrong an answer of R3 is, term by term: pure functions of tensors, each with its source.

Shapes: B samples, S frames, H x W pixels, N tracks. Points are in the frame of their own camera,
optical axes. Every loss is a mean, so that weights mean the same for any number of frames.
"""

from .geometric_loss import (
    confidence_weighted,
    depth_loss,
    edge_loss,
    pixel_rays,
    point_loss,
    scene_scale,
)
from .pose_loss import fov_loss, pair_losses, PairErrors, relative_motions, rotation_of
from .track_loss import (
    agreement_loss,
    anchored_point_loss,
    anchored_pose_loss,
    moved,
    sample_map,
    static_tracks,
)

__all__ = [
    'agreement_loss',
    'anchored_point_loss',
    'anchored_pose_loss',
    'confidence_weighted',
    'depth_loss',
    'edge_loss',
    'fov_loss',
    'moved',
    'pair_losses',
    'PairErrors',
    'pixel_rays',
    'point_loss',
    'relative_motions',
    'rotation_of',
    'sample_map',
    'scene_scale',
    'static_tracks',
]
