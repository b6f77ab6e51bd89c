"""``~/occupancy`` over DDS: what nav2's static layer would get."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')
pytest.importorskip('r3_ros.msg', reason='r3_ros.msg is not built (see make setup)')

from nav_msgs.msg import OccupancyGrid
from r3_ros.ros.outputs.messages import stamp_ns_of
from ros_graph import LATCHED
from scripted import PERIOD_NS, ROOM, START_NS
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros
METRES = 2.0


@pytest.fixture
def mapped(graph):
    """Make graphs that map the scripted room, whose floor the camera hardly sees."""

    def make(**values):
        values = {
            'occupancy__enabled': True,
            'occupancy__publish_period': 0.5,
            'occupancy__resolution': 0.1,
            'occupancy__min_points': 1,
            'occupancy__estimate_floor': False,
            'occupancy__floor_height': float(-METRES * ROOM[1]),
            'scale__source': 'fixed',
            'scale__fixed': METRES,
            'keyframe__max_interval': 3,
            'points__confidence_percentile': 0.0,
            'points__edge_threshold': 0.0,
            'points__stride': 1,
            'diagnostics__period': 0.1,
            **values,
        }
        return graph(**values).start()

    return make


def cells_of(message):
    return np.asarray(message.data, np.int8).reshape(message.info.height, message.info.width)


def task(message):
    return next(status for status in message.status if status.name == 'r3: map')


def places_of(message, value):
    """Return (N, 2) the middles of the cells of a value, in map."""
    rows, columns = np.nonzero(cells_of(message) == value)
    origin = message.info.origin.position
    return (np.stack([columns, rows], 1) + 0.5) * message.info.resolution + [origin.x, origin.y]


def off_the_walls(places):
    """Return (N,) how far inside (negative) or outside the room places are.

    The walk begins half a unit left of the room's middle and looks along its z.
    """
    middle = METRES * np.array([0.0, -0.5])
    return (np.abs(places - middle) - METRES * ROOM[[2, 0]]).max(axis=1)


def test_the_room_is_where_it_is_in_metres(mapped):
    g = mapped()
    received = g.listen('/r3/occupancy', OccupancyGrid, LATCHED)
    g.until(lambda: g.send() and g.stamp_ns > START_NS + 30 * PERIOD_NS and received, 60.0)
    stamp_ns = g.stamp_ns
    g.until(lambda: g.send() and stamp_ns_of(received[-1].header.stamp) > stamp_ns, 60.0)
    grid = received[-1]
    assert grid.header.frame_id == 'map' and grid.info.origin.orientation.w == 1.0
    assert grid.info.resolution == pytest.approx(0.1)
    walls, free = places_of(grid, 100), places_of(grid, 0)
    assert len(walls) > 40 and np.abs(off_the_walls(walls)).max() < 0.11
    assert len(free) > 300 and off_the_walls(free).max() < 0.06
    late = g.listen('/r3/occupancy', OccupancyGrid, LATCHED)
    g.until(lambda: late)


def test_a_reset_empties_the_grid(mapped):
    g = mapped()
    received = g.listen('/r3/occupancy', OccupancyGrid, LATCHED)
    g.until(lambda: g.send() and received and received[-1].info.width > 0, 60.0)
    assert g.call(Trigger, '/r3/reset').success
    g.until(lambda: received[-1].info.width == 0)
    assert len(received[-1].data) == 0


def test_nothing_is_published_while_metres_are_not_known(mapped):
    g = mapped(scale__source='none')
    received = g.listen('/r3/occupancy', OccupancyGrid, LATCHED)
    reported = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(8)
    g.until(lambda: reported and task(reported[-1]).level == DiagnosticStatus.WARN)
    assert 'the metric scale is unknown' in task(reported[-1]).message
    assert all(grid.info.width == 0 for grid in received)


def test_a_map_without_a_floor_says_so_and_gives_no_grid(mapped):
    g = mapped(occupancy__estimate_floor=True)
    received = g.listen('/r3/occupancy', OccupancyGrid, LATCHED)
    reported = g.listen('/diagnostics', DiagnosticArray)
    g.send_many(4)
    g.until(lambda: g.send() and reported and 'no floor' in task(reported[-1]).message)
    assert all(grid.info.width == 0 for grid in received)


def test_without_being_asked_for_the_topic_is_not_there(graph):
    g = graph().start()
    g.send()
    g.until(lambda: g.probe.count_publishers('/r3/map_points') == 1)
    assert g.probe.count_publishers('/r3/occupancy') == 0
