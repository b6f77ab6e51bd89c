"""The weights that come with the package: they know the geometry, and answer as when shipped."""

import json
import shutil

import numpy as np
import pytest
from r3_ros.core.config import R3Config
from r3_ros.core.error_model import ErrorModel
from r3_ros.core.geometry import inverse, rotation_angle
from r3_ros.core.parameter_fields import updated
from r3_ros.factory import load_predictor
from r3_ros.model.weights.catalogue import find_weights

from tools.ship_weights import ANSWERS, answers, FRAMES


@pytest.fixture(scope='module')
def found():
    return answers()


def test_poses_of_stored_frames_are_near_the_truth_and_confidence_knows_which(found):
    T = np.array(json.loads((FRAMES / 'truth.json').read_text())['T_world_camera'])
    assert len(found['edges']) == 6
    units, scores = [], {1: [], 2: [], 3: []}
    for edge in found['edges']:
        apart = edge['target'] - edge['source']
        exact = inverse(T[edge['source']]) @ T[edge['target']]
        got = np.array(edge['T'])
        turn = float(rotation_angle(exact[:3, :3]))
        assert turn > np.deg2rad(9)
        assert rotation_angle(got[:3, :3].T @ exact[:3, :3]) < (0.1 if apart == 1 else 0.15) * turn
        length, exact_length = (np.linalg.norm(pose[:3, 3]) for pose in (got, exact))
        cosine = got[:3, 3] @ exact[:3, 3] / (length * exact_length)
        assert np.rad2deg(np.arccos(cosine)) < 8
        scores[apart].append(np.mean(edge['scores']))
        if apart == 1:
            units.append(length / exact_length)
    assert max(units) < 1.4 * min(units), 'all frames in one unit'
    assert min(scores[1]) > max(scores[2]) and min(scores[2]) > max(scores[3])


def test_answers_on_stored_frames_are_those_of_the_day_of_shipping(found):
    """Within what processors differ by: other weights, or another solver, differ more."""
    before = json.loads((FRAMES / ANSWERS).read_text())
    for old, new in zip(before['edges'], found['edges'], strict=True):
        assert (old['source'], old['target']) == (new['source'], new['target'])
        one, other = np.array(old['T']), np.array(new['T'])
        assert np.rad2deg(rotation_angle(one[:3, :3].T @ other[:3, :3])) < 0.05
        assert np.linalg.norm(one[:3, 3] - other[:3, 3]) < 0.01 * np.linalg.norm(one[:3, 3])
        np.testing.assert_allclose(old['scores'], new['scores'], rtol=0.03)
    np.testing.assert_allclose(before['depth_quantiles'], found['depth_quantiles'], rtol=0.01)


def test_its_error_model_is_the_one_fitted_to_its_weights(tmp_path):
    config = updated(R3Config(), {'model.name': 'r3_tiny', 'model.device': 'cpu'})
    fitted = load_predictor(config).error_model
    # A step is known to about its length, see docs/results.md.
    assert 0.5 < fitted.extent[0] < 1.5
    alone = tmp_path / 'mine.safetensors'
    shutil.copyfile(find_weights('r3_tiny'), alone)
    other = load_predictor(updated(config, {'model.checkpoint': str(alone)}))
    assert other.error_model == ErrorModel()
