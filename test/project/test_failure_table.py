"""Every failure that docs/node.md answers has tests."""

import ast
import re

from paths import ROOT
import pytest

PAGE = ROOT / 'docs' / 'node.md'

#: The beginning of a row's first cell -> tests, each FILE::NAME without what all have in common.
TESTS = {
    'images arrive too fast': (
        'ros_failures_images::overload_drops_frames_and_counts_them_exactly',
        'ros_failures_images::overload_is_reported_once_with_what_to_do',
        'ros_failures_images::queue_policy_loses_nothing',
    ),
    'unknown encoding': (
        'ros_failures_images::a_bad_image_is_rejected_and_the_next_one_tracked',
        'ros_failures_images::every_encoding_is_tracked_and_every_other_reported',
        'ros_failures_images::rejections_are_logged_at_most_every_five_seconds_with_their_count',
        'ros_diagnostics::diagnostics_tell_when_everything_is_rejected',
    ),
    'incompatible QoS': (
        'ros_failures_images::an_incompatible_publisher_is_named_in_diagnostics',
    ),
    'nobody publishes the image topic': ('ros_topics::a_wrong_image_topic_is_explained',),
    'two drivers on one topic': (
        'ros_failures_images::two_drivers_on_one_topic_begin_few_sessions',
        'frame_filter::two_clocks_on_one_topic_begin_no_session_with_every_frame',
        'ros_topics::a_second_publisher_of_images_is_reported',
    ),
    'stamp repeated': ('ros_failures_time::repeated_and_late_stamps_are_dropped',),
    'time jumps back': (
        'ros_failures_time::time_that_jumps_back_starts_a_new_session',
        'ros_failures_time::a_clock_that_jumps_back_starts_a_new_session_once',
        'ros_failures_time::other_answers_to_a_jump_back',
        'ros_failures_time::other_answers_to_a_clock_that_jumps_back',
        'ros_failures_time::a_recording_in_a_loop_begins_anew_each_time',
        'ros_failures_time::a_jump_that_is_ignored_drops_images_until_time_is_back',
    ),
    'images of one colour': (
        'ros_failures_tracking::a_camera_that_sees_nothing_or_hangs_gives_no_pose',
        'image_check::no_world_begins_in_the_dark',
    ),
    'no stamp': (
        'ros_failures_time::zero_stamp_takes_the_time_of_arrival_and_says_so',
        'ros_failures_time::images_without_a_stamp_are_reported_once',
    ),
    'a long gap': (
        'ros_failures_time::after_a_gap_the_camera_proves_itself_and_odometry_claims_nothing',
    ),
    'the camera is carried off': ('ros_graph_topics::bridges_join_segments',),
    'another size': (
        'ros_failures_images::another_size_starts_anew_or_is_rejected',
        'ros_failures_images::another_frame_id_starts_anew',
    ),
    'CameraInfo missing': (
        'ros_failures_calibration::a_useless_calibration_is_reported_and_the_stream_goes_on',
        'ros_failures_calibration::a_calibration_that_breaks_later_is_not_taken',
        'ros_diagnostics::what_input_warns_of',
    ),
    'CameraInfo of the same image': (
        'ros_failures_calibration::a_calibration_of_another_cut_of_the_sensor_is_made_to_fit',
    ),
    'unknown distortion model': (
        'ros_failures_calibration::an_unknown_distortion_model_is_reported_once_and_not_undone',
    ),
    'CameraInfo comes later': (
        'ros_failures_calibration::a_calibration_that_comes_late_starts_a_new_session',
    ),
    'confidence is low': (
        'ros_failures_tracking::poses_of_low_confidence_say_so_and_the_map_rests',
    ),
    'no known place': (
        'ros_failures_tracking::a_lost_camera_gets_no_pose',
        'ros_transforms::a_lost_camera_keeps_map_to_odom_and_loses_odom_to_base',
    ),
    'poses of the past are corrected': (
        'ros_failures_tracking::corrected_poses_are_reported_and_published_again',
        'ros_failures_tracking::clouds_of_keyframes_that_were_corrected_are_sent_again_where_they_belong',
        'ros_transforms::odom_is_continuous_where_map_jumps',
    ),
    'numbers that are not finite': ('ros_failures_tracking::nothing_but_finite_numbers_leaves',),
    '`base_frame` not connected': (
        'ros_transforms::without_the_transform_to_the_base_nothing_goes_out_until_it_comes',
        'ros_rivals::a_camera_that_moves_on_its_named_base_is_refused_and_reported_what_to_name',
    ),
    "the robot's `odom -> base`": (
        'ros_navigation::without_the_robots_odometry_nothing_new_is_sent_and_the_last_goes_on',
    ),
    'another node broadcasts': (
        'ros_rivals::who_was_there_before_keeps_the_edge',
        'ros_rivals::who_comes_later_is_reported_and_forgotten_when_gone',
    ),
    'disk full': (
        'ros_services::a_full_disk',
        'ros_services::a_disk_that_fails_midway_leaves_nothing_and_the_stream_goes_on',
        'ros_services::a_place_that_cannot_be_written',
        'ros_services::an_existing_map_is_replaced_only_on_request',
    ),
    'a second node': (
        'ros_lifecycle::a_second_node_of_the_same_name_is_refused',
        'ros_lifecycle::a_node_of_the_same_name_that_comes_later_is_reported',
        'ros_two_nodes::a_node_leaves_an_odom_frame_that_another_one_moves_and_says_so',
    ),
    'the device has no memory left': (
        'ros_failures_device::the_first_time_less_is_held_and_the_frame_tried_again',
        'ros_failures_device::the_second_time_a_new_session_begins_and_the_third_stops',
        'ros_failures_device::other_policies_do_not_shrink',
        'r3_predictor::errors_of_the_device_are_reported_in_our_words',
    ),
    'the device is lost': (
        'ros_failures_device::a_lost_device_stops_the_node_and_the_map_can_still_be_saved',
        'ros_process::a_node_that_cannot_be_cleaned_up_ends_its_process',
    ),
    'an unexpected error': (
        'ros_failures_tracking::an_unforeseen_error_is_reported_stops_the_stream_and_a_reset_helps',
    ),
    'FAULT, for any reason': (
        'ros_failures_device::the_second_time_a_new_session_begins_and_the_third_stops',
        'ros_services::a_reset_leaves_a_fault',
    ),
    'a package that cannot be imported': (
        'ros_process::a_missing_package_names_the_interpreter_and_the_page',
    ),
    'weights missing': (
        'r3_predictor::the_node_says_why_it_has_no_network',
        'checkpoint::missing_and_unexpected_keys_are_named',
    ),
    "the network's output is not finite": (
        'r3_predictor::answers_that_are_not_finite_are_refused_and_leave_no_trace',
        'ros_failures_images::refusals_of_the_predictor_cost_one_frame',
    ),
    'a parameter out of range': (
        'ros_parameters::bad_values_are_refused_with_a_reason',
        'ros_parameters::every_fixed_parameter_is_refused_while_configured',
        'ros_process::wrong_arguments_end_it_with_a_reason',
    ),
    'deactivated during a frame': (
        'ros_threads::commands_are_refused_while_a_worker_is_stuck',
        'ros_threads::nothing_leaves_a_worker_that_was_given_up',
        'ros_lifecycle::stopping_does_not_wait_for_a_stuck_model',
    ),
    'SIGINT, SIGTERM': (
        'ros_process::a_signal_ends_it_in_order',
        'ros_process::a_signal_while_it_configures_ends_it_and_its_name_is_free',
        'ros_process::a_signal_during_a_frame_that_never_ends_ends_it',
        'ros_process::a_signal_during_a_long_save_ends_it_and_leaves_nothing',
    ),
}


def events(text, section):
    """Return the first cells of a section's table."""
    (part,) = re.findall(rf'^## {section}[^\n]*\n(.*?)(?=^## |\Z)', text, re.M | re.S)
    rows = [line.split('|')[1].strip() for line in part.splitlines() if line.startswith('| ')]
    return [row for row in rows if not set(row) <= set('- ')][1:]


def named_by(row, names):
    return [name for name in names if row.startswith(name)]


def functions_in(path):
    """Return the names of the functions of a module."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


def test_every_row_of_the_page_names_its_tests():
    rows = events(PAGE.read_text(), 'When something is wrong')
    for row in rows:
        assert len(named_by(row, TESTS)) == 1, f'which tests are of this row: {row}'
    for name in TESTS:
        assert any(row.startswith(name) for row in rows), f'no such row: {name}'


@pytest.mark.parametrize('name', TESTS)
def test_the_tests_exist(name):
    for test in TESTS[name]:
        module, function = test.split('::')
        (path,) = ROOT.glob(f'test/**/test_{module}.py')
        assert f'test_{function}' in functions_in(path), test
