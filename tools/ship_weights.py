"""Write trained weights in half precision, as they come with the package.

python -m tools.ship_weights TRAINED/weights.safetensors OUT/r3_tiny.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from r3_ros.commands.options import size_text
from r3_ros.model.weights.checkpoint import IMAGE_SIZE, load_network, save_network


def main() -> None:
    """Read a file of r3 train, and write one of half the size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('trained', type=Path, help='weights.safetensors of a training')
    parser.add_argument('shipped', type=Path, help='the file to write')
    args = parser.parse_args()
    loaded = load_network(args.trained)
    about = {} if loaded.image_size is None else {IMAGE_SIZE: str(loaded.image_size)}
    args.shipped.parent.mkdir(parents=True, exist_ok=True)
    save_network(loaded.network.half(), args.shipped, about)
    print(f'{args.shipped}: {loaded.variant}, {size_text(args.shipped.stat().st_size)}')


if __name__ == '__main__':
    main()
