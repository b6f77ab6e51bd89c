"""Exports a saved map as a recording for the Rerun viewer (.rrd)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rerun as rr

from ...core.atomic_files import atomic_path
from ...core.geometry import quat_xyzw
from .. import map_layout
from ..saved_map import SavedMap


def write_rerun(path: Path | str, saved: SavedMap, overwrite: bool = False) -> None:
    """Write the cloud, the path, and along the time of the recording the moving camera.

    :raises OutputError: it exists, or cannot be written.
    """
    facts = saved.facts
    with atomic_path(path, overwrite) as temporary:
        with rr.RecordingStream('r3_ros') as recording:
            recording.save(temporary)
            recording.log('map', rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
            cloud = rr.Points3D(saved.points.points, colors=saved.points.colors)
            recording.log('map/points', cloud, static=True)
            centres = saved.trajectory.T_map_base[:, :3, 3]
            recording.log('map/path', rr.LineStrips3D([centres]), static=True)
            T_map_optical = saved.trajectory.T_map_base @ facts.T_base_optical
            for stamp_ns, T in zip(
                saved.trajectory.stamps_ns.tolist(), T_map_optical, strict=True
            ):
                recording.set_time('stamp', timestamp=np.datetime64(stamp_ns, 'ns'))
                recording.log('map/camera', _transform(T))
            ids, stamps_ns = saved.keyframes.ids.tolist(), saved.keyframes.stamps_ns.tolist()
            for row, (frame_id, stamp_ns) in enumerate(zip(ids, stamps_ns, strict=True)):
                recording.set_time('stamp', timestamp=np.datetime64(stamp_ns, 'ns'))
                lens = saved.keyframes.intrinsics(row)
                size = [lens.width, lens.height]
                pinhole = rr.Pinhole(image_from_camera=lens.K, resolution=size)
                place = f'map/keyframes/{frame_id:06d}'
                recording.log(place, _transform(saved.keyframes.T_map_optical[row]), pinhole)
                recording.log('map/camera', pinhole)
                if frame_id in saved.images:
                    image = saved.images[frame_id]
                    kind = f'image/{map_layout.media_type(image)}'
                    encoded = rr.EncodedImage(contents=image, media_type=kind)
                    recording.log('map/camera', encoded)
            recording.flush()
            recording.disconnect()


def _transform(T: np.ndarray) -> rr.Transform3D:
    return rr.Transform3D(translation=T[:3, 3], quaternion=rr.Quaternion(xyzw=quat_xyzw(T)))
