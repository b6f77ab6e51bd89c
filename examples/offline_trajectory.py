"""Run a folder of frames, a video or a bag through the library and print the trajectory.

Usage: python examples/offline_trajectory.py INPUT [camera.yaml]
"""

import sys

from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Frame
from r3_ros.factory import load_engine
from r3_ros.input.camera_model import Rectifier
from r3_ros.input.open_source import open_source

engine = load_engine(R3Config())
with open_source(sys.argv[1], camera=sys.argv[2] if len(sys.argv) > 2 else None) as source:
    rectifier = None
    for raw in source:
        if rectifier is None and source.camera:
            height, width = raw.image.shape[:2]
            rectifier = Rectifier(source.camera.scaled_to(width, height))
        image = rectifier.rectify(raw.image) if rectifier else raw.image
        intrinsics = rectifier.intrinsics if rectifier else None
        estimate = engine.step(Frame(image, raw.stamp_ns, intrinsics))
        T = estimate.T_world_camera
        where = 'no pose' if T is None else ' '.join(f'{v:8.3f}' for v in T[:3, 3])
        print(f'{raw.stamp_ns / 1e9:.3f} s  {where}  {estimate.state.value} {estimate.reason}')
engine.close()
