"""The acceptance tests that were proposed: each is here, or said to be missing and why."""

from pathlib import Path
import re

import pytest
from test_failure_table import functions_in, PROPOSAL, TEST, TESTS

#: Number and first word of what was proposed -> tests, FILE::NAME without what all have in common.
ACCEPTANCE = {
    (1, 'Every'): (
        'ros_interface::every_proposed_parameter_exists_or_is_decided_otherwise',
        'ros_interface::every_proposed_topic_exists_or_is_decided_otherwise',
        'ros_interface::every_proposed_service_exists_or_is_decided_otherwise',
        'ros_interface::every_proposed_message_is_as_proposed',
        'ros_interface::every_proposed_key_of_diagnostics_exists_or_is_decided_otherwise',
        'ros_interface::every_proposed_launch_argument_is_there_with_its_default',
        'ros_interface::parameters_are_those_of_the_page',
    ),
    (2, 'TF'): (
        'ros_transforms::modes',
        'ros_navigation::map_odom_and_the_robots_odom_base_give_the_estimate_at_the_stamp',
        'ros_transforms::an_edge_of_somebody_else_is_refused_and_told',
        'ros_two_nodes::two_cameras_have_two_trees_of_frames',
        'ros_transforms::odom_is_continuous_where_map_jumps',
        'ros_transforms::odom_goes_on_over_a_loss_and_where_a_loop_closes',
        'ros_topics::the_map_is_upright',
        'ros_transforms::each_frame_has_its_transforms_at_its_own_stamp_and_they_compose',
        'ros_messages::stamps_survive_as_integers',
    ),
    (3, 'Navigation'): (
        'ros_navigation::map_odom_and_the_robots_odom_base_give_the_estimate_at_the_stamp',
        'ros_navigation::without_the_robots_odometry_nothing_new_is_sent_and_the_last_goes_on',
    ),
    (4, 'Overload'): (
        'ros_failures_pictures::overload_drops_frames_and_counts_them_exactly',
        'long_run::memory_is_flat_over_ten_thousand_frames',
    ),
    (5, 'QoS'): (
        'ros_topics::reliable_and_best_effort_partners_connect',
        'ros_topics::late_joiners_get_map_and_path',
    ),
    (6, 'Time'): tuple(test for tests in TESTS.values() for test in tests),
    (7, 'Services'): (
        'ros_services::reset_starts_a_new_session_and_empties_map_and_path',
        'ros_services::clear_map_keeps_tracking',
        'ros_services::pause_counts_frames_and_resume_goes_on',
        'ros_services::bad_requests',
        'ros_services::a_full_disk',
        'ros_services::a_save_that_takes_too_long_answers_and_leaves_nothing',
        'ros_services::streaming_goes_on_while_a_map_is_written',
        'ros_services::saved_map_holds_what_was_published',
        'ros_services::trajectory_formats_agree',
        'ros_maps::each_thing_that_can_be_wrong_with_a_map_has_its_code',
        'ros_maps::a_map_is_loaded_by_another_process_and_the_camera_is_found',
        'ros_map_moves::a_scale_set_by_hand_reaches_map_path_and_increments_and_never_moves_odometry',
        'ros_map_moves::what_is_no_scale_is_refused',
    ),
    (8, 'Lifecycle'): (
        'ros_lifecycle::two_full_cycles',
        'ros_parameters::bad_values_are_refused_with_a_reason',
        'ros_process::a_signal_ends_it_in_order',
    ),
    (9, 'Launch'): (
        'ros_launch::arguments_arrive_in_their_types',
        'ros_launch::every_argument_is_explained_and_its_default_is_allowed',
        'launch_arguments::arguments_set_parameters_that_exist_in_their_types_and_choices',
    ),
    # Nobody here has the authors' weights: docs/results.md says what was not run.
    (10, 'GPU'): (),
    (11, 'Interop'): (
        'interop::clouds_of_depth_image_proc_are_our_points',
        'interop::exact_synchronizers_get_a_set_for_every_depth',
    ),
}


@pytest.mark.parametrize('name', sorted({test for tests in ACCEPTANCE.values() for test in tests}))
def test_the_acceptance_tests_exist(name):
    module, function = name.split('::')
    assert f'test_{function}' in functions_in(TEST / f'test_{module}.py')


def test_every_proposed_acceptance_test_is_known():
    if not PROPOSAL.exists():
        pytest.skip(f'{PROPOSAL} is not there to compare with')
    section = PROPOSAL.read_text().split('\n## 11. ')[1].split('\n## ')[0]
    proposed = re.findall(r'^(\d+)\. (\w+)', section, re.M)
    assert [(int(number), word) for number, word in proposed] == list(ACCEPTANCE)


def test_what_was_not_run_is_said():
    results = (Path(__file__).resolve().parents[1] / 'docs' / 'results.md').read_text()
    section = results.split('\n## What a full distribution was not there for')[1].split('\n## ')[0]
    for name in ('RViz', 'nav2', 'nvblox', 'RTAB-Map', 'SROS2', 'weights'):
        assert name in section, name
