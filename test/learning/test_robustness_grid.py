"""Sequences of every trouble of benchmarks/robustness.py can be made."""

from pathlib import Path
import sys

import numpy as np
import pytest

pytest.importorskip('torch', reason='worlds are rendered with torch')
sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

from robustness_grid import BEYOND, Cell, draw_cells, GridSequence, TROUBLES  # noqa: E402


def first_images(trouble, kind, style, count=2, frames=40):
    sequence = GridSequence(Cell(trouble, kind, style), seed=5, frames=frames)
    images = [image for image, _ in zip(sequence.images(), range(count), strict=False)]
    return sequence, images


@pytest.mark.slow
@pytest.mark.parametrize('trouble', TROUBLES | BEYOND)
def test_a_sequence_of_every_trouble_is_drawn(trouble):
    drawn = (TROUBLES | BEYOND)[trouble]
    kind, style = drawn.kinds[-1], drawn.styles[0]
    style = style if style != 'driving' or kind == 'street' else drawn.styles[-1]
    sequence, images = first_images(trouble, kind, style)
    assert all(image.shape == (480, 640, 3) and image.std() > 3 for image in images)
    T = sequence.path.T_world_camera
    assert T.shape == (40, 4, 4) and np.isfinite(T).all()
    assert np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1).sum() > 0.05


def test_cells_are_drawn_by_the_seed_and_cover_all_troubles():
    cells = draw_cells(3, 30)
    assert cells == draw_cells(3, 30) and cells != draw_cells(4, 30)
    assert {cell.trouble for cell, _ in cells} == set(TROUBLES)
    assert {cell.trouble for cell, _ in draw_cells(3, 5, BEYOND)} == set(BEYOND)
