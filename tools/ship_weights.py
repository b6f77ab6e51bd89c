"""Write trained weights in half precision as those of the package, and note what they answer.

python -m tools.ship_weights TRAINED/weights.safetensors
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from r3_ros.commands.options import size_text
from r3_ros.core.config import R3Config
from r3_ros.core.datatypes import Frame, Intrinsics
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_predictor
from r3_ros.model.weights import catalogue
from r3_ros.model.weights.checkpoint import IMAGE_SIZE, load_network, save_network

_ROOT = Path(__file__).resolve().parents[1]
#: Four frames of a synthetic room with their camera and poses.
FRAMES = _ROOT / 'test' / 'model' / 'r3_tiny_frames'
ANSWERS = 'answers.json'


def main() -> None:
    """Read a file of r3 train, write one of half the size and its answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('trained', type=Path, help='weights.safetensors of a training')
    args = parser.parse_args()
    loaded = load_network(args.trained)
    about = {} if loaded.image_size is None else {IMAGE_SIZE: str(loaded.image_size)}
    path = Path(catalogue.__file__).with_name('included') / 'r3_tiny.safetensors'
    save_network(loaded.network.half(), path, about)
    (FRAMES / ANSWERS).write_text(json.dumps(answers(), indent=1) + '\n')
    print(f'{path}: {loaded.variant}, {size_text(path.stat().st_size)}')


def answers() -> dict[str, Any]:
    """Return what the installed r3_tiny says of the stored frames.

    Relative poses of each frame to all earlier ones with their confidences, and quantiles of the
    depths.
    """
    config = updated(R3Config(), {'model.name': 'r3_tiny', 'model.device': 'cpu'})
    predictor = load_predictor(config)
    K = np.array(json.loads((FRAMES / 'truth.json').read_text())['K'])
    edges, depths = [], []
    for n in range(4):
        image = cv2.imread(str(FRAMES / f'{n}.png'))
        assert image is not None
        image = image[..., ::-1]
        height, width = image.shape[:2]
        intrinsics = Intrinsics.from_K(K, width, height)
        frame = Frame(np.ascontiguousarray(image), n * 10**8, intrinsics, n)
        predictor.describe(frame)
        prediction = predictor.predict(frame, list(range(n)))
        for edge in prediction.edges:
            pose = {'source': edge.source_id, 'target': n, 'T': edge.T_source_target.tolist()}
            edges.append(pose | {'scores': list(edge.scores)})
        (depth_map,) = prediction.depths
        depths.append(np.quantile(depth_map.depth, [0.1, 0.3, 0.5, 0.7, 0.9]).tolist())
    predictor.close()
    return {'edges': edges, 'depth_quantiles': depths}


if __name__ == '__main__':
    main()
