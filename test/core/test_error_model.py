"""The errors of a predictor's edges, and the file they lie in."""

import numpy as np
import pytest
from r3_ros.core.error_model import ErrorModel
from r3_ros.core.geometry import make_T
from scipy.spatial.transform import Rotation


def test_a_written_model_is_read_back(tmp_path):
    model = ErrorModel(
        reference=4.0, evidence=(2.0, 3.0), drift=(1.5, 0.2), drift_power=3.0, start=(0.1, 0.2)
    )
    model.write(tmp_path / 'model.json', ['kitchen', 'a street'])
    assert ErrorModel.read(tmp_path / 'model.json') == model


def test_expected_errors_are_inverse_to_scores():
    model, reference = ErrorModel(nominal=(0.01, 0.02)), 0.7
    shares = np.array([[1.0, 2.0], [0.1, 5.0]])
    found = model.evidence_of_scores(shares * reference, reference)
    np.testing.assert_allclose(found, [0.01, 0.02] / shares)
    # No score, no knowledge; and nothing overflows.
    assert (model.evidence_of_scores(np.zeros((1, 2)), reference) > 100.0).all()
    assert np.isfinite(model.evidence_of_scores(np.full((1, 2), 1e9), reference)).all()


@pytest.mark.parametrize('part', [0, 1])
def test_each_part_of_the_evidence_makes_its_own_errors_larger(part):
    def motion(length, angle):
        return make_T(Rotation.from_rotvec([angle, 0, 0]).as_matrix(), [length, 0, 0])[None]

    model, noise = ErrorModel(), np.ones(1)
    evidence, extent = np.full((1, 2), 0.01), np.full(2, 0.1)
    before = model.variances(evidence, motion(*extent), noise)
    larger = [evidence.copy(), extent.copy()]
    larger[0][0, part] *= 3
    larger[1][part] *= 3
    for now in (
        model.variances(larger[0], motion(*extent), noise),
        model.variances(evidence, motion(*larger[1]), noise),
    ):
        assert now[0, part] > before[0, part]
        assert now[0, 1 - part] == pytest.approx(before[0, 1 - part])
    assert (model.variances(evidence, motion(*extent), 2 * noise) > 2 * before).all()
