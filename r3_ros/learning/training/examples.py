"""An image of what a network predicts on held-out clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...core.atomic_files import atomic_write
from ...model.network import Prediction
from .clips import Clips

EXAMPLES = 'examples.png'
#: Clips of each set.
_EACH = 3


def draw_examples(folder: Path, examples: Sequence[tuple[Clips, Prediction]]) -> None:
    """Draw the last frames of some clips: image, true depth, depth, confidence."""
    from matplotlib.figure import Figure

    rows = [
        (clips, prediction, b)
        for clips, prediction in examples
        for b in range(min(clips.shape[0], _EACH))
    ]
    figure = Figure(figsize=(9, 1.8 * len(rows)), layout='constrained')
    axes = figure.subplots(len(rows), 4, squeeze=False)
    for row, (clips, prediction, b) in zip(axes, rows, strict=True):
        assert prediction.depth is not None and prediction.confidence is not None
        image = clips.images[b, -1].permute(1, 2, 0).cpu().numpy()
        true = clips.depth[b, -1].cpu().numpy()
        depth = prediction.depth[b, -1].float().cpu().numpy()
        known = true > 0
        scale = np.median(true[known] / depth[known]) if known.any() else 1.0
        nearness = [np.where(known, 1 / np.maximum(true, 1e-6), np.nan), 1 / (scale * depth)]
        limits = (0, np.nanquantile(nearness[0], 0.98) if known.any() else None)
        row[0].imshow(image)
        for place, values in zip(row[1:3], nearness, strict=True):
            place.imshow(values, vmin=limits[0], vmax=limits[1], cmap='turbo')
        row[3].imshow(np.log(prediction.confidence[b, -1].float().cpu().numpy()), cmap='gray')
    for place, title in zip(axes[0], ('image', 'true depth', 'depth', 'confidence'), strict=True):
        place.set_title(title)
    for place in axes.flat:
        place.axis('off')
    with atomic_write(folder / EXAMPLES) as file:
        figure.savefig(file, format='png', dpi=80)
