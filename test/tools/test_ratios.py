"""What counts as a change of speed."""

import sys

import numpy as np
from paths import ROOT
import pytest

sys.path.insert(0, str(ROOT / 'benchmarks'))

STORED = np.array([10.0, 14.0, 11.0, 13.0, 12.0, 10.0, 15.0, 11.0])
NOISE = np.array([1.02, 0.97, 1.0, 1.03, 0.98, 1.01, 0.99, 1.0])


@pytest.mark.parametrize(
    ('factor', 'noise', 'verdict'),
    [
        (1.05, NOISE, 'same'),  # too little
        (1.3, NOISE, 'SLOWER'),
        (0.7, NOISE, 'faster'),
        (1.3, NOISE**12, 'same'),  # may be chance
    ],
)
def test_a_change_beyond_the_noise_is_named(monkeypatch, factor, noise, verdict):
    for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS'):
        monkeypatch.setenv(name, '1')  # the script sets them where they are not
    from ratios import Change

    # Parts of the recording differ more from one another than both runs do.
    assert Change.of(factor * noise * STORED, STORED).verdict() == verdict
