"""Reads occupancy grids by the documented rules of nav2's map_server."""

import cv2
import numpy as np
from r3_ros.maps.occupancy_grid import FREE, OCCUPIED, UNKNOWN
import yaml


def as_map_server_reads(folder):
    """Return cells, resolution and origin by the rule of map_server's documentation."""
    content = yaml.safe_load((folder / 'map.yaml').read_text())
    assert content['mode'] == 'trinary' and content['negate'] == 0
    image = cv2.imread(str(folder / content['image']), cv2.IMREAD_UNCHANGED)
    probability = (255 - image.astype(float)) / 255
    cells = np.full(image.shape, UNKNOWN)
    cells[probability > content['occupied_thresh']] = OCCUPIED
    cells[probability < content['free_thresh']] = FREE
    return cells[::-1], content['resolution'], content['origin']
