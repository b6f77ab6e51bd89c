"""The errors of a predictor's edges, and the file they lie in."""

import numpy as np
import pytest
from r3_ros.core.error_model import ErrorModel


def test_a_written_model_is_read_back(tmp_path):
    model = ErrorModel(evidence=(2.0, 3.0), drift=(1.5, 0.2), drift_power=3.0, start=(0.1, 0.2))
    model.write(tmp_path / 'model.json', ['kitchen', 'a street'])
    assert ErrorModel.read(tmp_path / 'model.json') == model


def test_scores_are_evidence_by_their_logits():
    model, reference = ErrorModel(nominal=(0.01, 0.02)), 0.7
    logits = np.array([[0.0, 2.0], [-3.0, 1.0]])
    by_reference = np.log(np.expm1(reference))
    found = model.evidence_of_scores(np.log1p(np.exp(logits + by_reference)), reference)
    np.testing.assert_allclose(found, np.exp(-logits) * [0.01, 0.02])
    # No score, no knowledge; and nothing overflows.
    assert (model.evidence_of_scores(np.zeros((1, 2)), reference) > 100.0).all()
    assert np.isfinite(model.evidence_of_scores(np.full((1, 2), 1e9), reference)).all()


@pytest.mark.parametrize('part', [0, 1])
def test_each_part_of_the_evidence_makes_its_own_errors_larger(part):
    model = ErrorModel()
    evidence, extents, noise = np.full((1, 2), 0.01), np.full((1, 2), 0.1), np.ones(1)
    before = model.variances(evidence, extents, noise)
    for changed in (evidence, extents):
        larger = changed.copy()
        larger[0, part] *= 3
        now = model.variances(*(larger if x is changed else x for x in (evidence, extents)), noise)
        assert now[0, part] > before[0, part]
        assert now[0, 1 - part] == before[0, 1 - part]
    assert (model.variances(evidence, extents, 2 * noise) > 2 * before).all()
