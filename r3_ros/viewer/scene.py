"""The scene in the browser. It is given plain arrays, whatever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
import math
import threading
import traceback
from typing import Any, TYPE_CHECKING

import cv2
import numpy as np

from ..core.datatypes import Intrinsics
from ..core.geometry import quat_xyzw
from ..core.resize_geometry import as_rgb
from ..core.threads import RepeatingThread
from ..maps.depth_colors import depth_colors
from ..maps.frustum import frustum_lines
from .panel import LAYERS, Panel
from .point_layer import MOST_DRAWN, PlacedCloud, PointLayer
from .scene_server import DEFAULT_PORT, LOOPBACK, start_server, stop_server
from .shapes import (
    confidence_colors,
    ellipsoids,
    link_lines,
    path_lines,
)
from .view_data import Command, ShownKeyframes

if TYPE_CHECKING:
    import viser

#: Period of the choice of points in full detail.
_DETAIL_PERIOD_S = 0.3
_STOP_S = 2.0
#: Images are sent at this width.
_IMAGE_WIDTH = 320
_USUAL_FOV = 1.0
#: Length of a frustum, as a share of the reach of the map.
_FRUSTUM_SHARE = 0.05
#: Changes of the map or of a view by this share of the reach are noticed.
_SEEN_CHANGE = 0.15
#: A view that follows the camera: distance and height of its eye, distance of what it looks at, in
#: lengths of a frustum. Farther back there is often a wall between.
_FOLLOW_BACK, _FOLLOW_UP, _FOLLOW_AHEAD = 3.5, 1.5, 8.0
_UP = np.array([0.0, 0.0, 1.0])
_CAMERA_COLOR = (255, 140, 0)
_PATH_COLOR = (255, 196, 61)
_TRUTH_COLOR = (255, 255, 255)
_ELLIPSOID_COLOR = (190, 110, 255)
_LINE_PX = 2.0
_THIN_PX = 1.0


class Scene:
    """A server and what it shows. Any thread may call the methods; z of the map is up.

    :ivar url: address of the page.
    :ivar port: may be another one than was asked for, which was in use.
    """

    def __init__(self, host: str = LOOPBACK, port: int = DEFAULT_PORT) -> None:
        """Start the server.

        :raises ConfigError: it cannot listen there.
        :raises ModuleNotFoundError: viser is not installed.
        """
        self._server = start_server(host, port)
        self.port = self._server.get_port()
        shown = 'localhost' if host in ('0.0.0.0', '::') else f'[{host}]' if ':' in host else host
        self.url = f'http://{shown}:{self.port}'
        self._lock = threading.RLock()
        self._nodes: dict[str, Any] = {}
        self._keyframes: ShownKeyframes | None = None
        self._intrinsics: Intrinsics | None = None
        self._T_map_camera: np.ndarray | None = None
        self._middle, self._reach = np.zeros(3), 1.0
        #: What the pages look at unless their users have moved: middle and reach; and from where.
        self._fitted: tuple[np.ndarray, float] | None = None
        self._eyes_set: dict[int, np.ndarray] = {}
        self.points = PointLayer(self._server)
        self.panel = Panel(self._server, self._switch_layer, self.fit, MOST_DRAWN)
        self.panel.point_size.on_update(lambda event: self._resize_points(event.target.value))
        self.panel.hidden_percent.on_update(lambda event: self._hide_weak(event.target.value))
        self.panel.most_drawn.on_update(lambda event: self._limit_points(event.target.value))
        self.panel.camera_size.on_update(lambda event: self._draw_keyframes())
        self.panel.follow.on_update(lambda event: self._follow())
        self._resize_points(self.panel.point_size.value)
        self._detail = RepeatingThread('view_detail', self._refine, _print_error)
        self._detail_wait = threading.Event()
        self._server.on_client_connect(lambda client: self._fit([client]))
        self._detail.start()

    def close(self) -> None:
        """Close all pages' connections and end the server."""
        self._detail_wait.set()
        self._detail.stop(_STOP_S)
        stop_server(self._server)

    def clear(self) -> None:
        """Remove everything that is shown but the controls."""
        with self._lock:
            self.points.show(())
            for node in self._nodes.values():
                node.remove()
            self._nodes.clear()
            self._keyframes = self._T_map_camera = self._fitted = None
            self.panel.remove_time()
            self.panel.show_images(None, None)

    # What is shown.

    def show_cloud(self, placed: Iterable[PlacedCloud]) -> None:
        """Show these clouds alone; only blocks that are new or have changed are sent."""
        with self._lock:
            self.points.show(placed)
            bounds = self.points.bounds()
            if bounds is not None:
                self._middle, self._reach = bounds
                self._keep_in_view()
            self.points.refine(self._eyes())

    def show_keyframes(
        self, keyframes: ShownKeyframes, intrinsics: Intrinsics | None = None
    ) -> None:
        """Show keyframes, their graph and their covariances."""
        with self._lock:
            self._keyframes, self._intrinsics = keyframes, intrinsics
            self._draw_keyframes()

    def show_path(self, centres: np.ndarray) -> None:
        """Show (N, 3) positions of the camera, joined by lines; a NaN is a gap."""
        with self._lock:
            self._draw_lines('Path', path_lines(centres), _PATH_COLOR)

    def show_truth(self, centres: np.ndarray) -> None:
        """Show the true (N, 3) positions of the camera, in the map."""
        with self._lock:
            self._draw_lines('Truth', path_lines(centres), _TRUTH_COLOR)

    def show_camera(
        self,
        T_map_camera: np.ndarray | None,
        image: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        intrinsics: Intrinsics | None = None,
    ) -> None:
        """Show where the camera is now, what it sees and the newest depth.

        :param T_map_camera: (4, 4), or None without a pose.
        :param image: (H, W, 3) uint8 RGB or (H, W) grey; ``depth``: (h, w) in any unit, or
            (h, w, 3) colours.
        """
        pixels = None if image is None else as_rgb(_resized(image))
        if depth is not None and depth.ndim == 2:
            depth = depth_colors(depth)
        with self._lock:
            self.panel.show_images(pixels, None if depth is None else _resized(depth))
            self._T_map_camera = T_map_camera
            if T_map_camera is None:
                self._remove('Camera')
                return
            self._draw_camera(T_map_camera, pixels, intrinsics)
            self._follow()

    def show_status(self, state: str, facts: Mapping[str, str]) -> None:
        """Show the tracking state and other facts in words."""
        self.panel.show_status(state, facts)

    def add_time(self, duration_s: float, on_time: Callable[[float], None]) -> None:
        """Let the user choose a time of a finished run.

        :param on_time: called with the seconds since its start.
        """
        self.panel.add_time(duration_s, on_time)

    def add_commands(self, title: str, commands: Sequence[Command]) -> None:
        """Add controls that call something outside of the viewer."""
        self.panel.add_commands(title, commands)

    def fit(self) -> None:
        """Look at the whole map, from behind the first camera, in all pages."""
        self._fit(self._server.get_clients().values())

    def _fit(self, clients: Iterable[viser.ClientHandle]) -> None:
        with self._lock:
            forward = np.array([1.0, 0.0, 0.0])
            if self._keyframes is not None and len(self._keyframes.centres):
                forward = _level(self._keyframes.T_map_camera[0, :3, 2], forward)
            offset = self._reach * (1.2 * _UP - 1.8 * forward)
            initial = self._server.initial_camera
            initial.position, initial.look_at = self._middle + offset, self._middle
            self._fitted = self._middle, self._reach
            for client in clients:
                # From farther away on the narrow screen of a phone.
                farther = max(1.0, 0.8 / client.camera.aspect)
                eye = self._eyes_set[client.client_id] = self._middle + farther * offset
                _look(client, eye, self._middle)

    def _keep_in_view(self) -> None:
        """Fit a map that has grown in the pages whose users have not moved the view."""
        if self._fitted is not None:
            middle, reach = self._fitted
            moved = float(np.linalg.norm(self._middle - middle)) + abs(self._reach - reach)
            if moved < _SEEN_CHANGE * reach:
                return
        clients = self._server.get_clients().values()
        self._fit([client for client in clients if self._is_unmoved(client)])

    def _is_unmoved(self, client: viser.ClientHandle) -> bool:
        eye = self._eyes_set.get(client.client_id)
        if eye is None:
            return True
        return bool(np.linalg.norm(client.camera.position - eye) < _SEEN_CHANGE * self._reach)

    # Drawing, with the lock held.

    def _draw_keyframes(self) -> None:
        with self._lock:
            keyframes = self._keyframes
            if keyframes is None:
                return
            length = self._frustum_length
            lines = frustum_lines(keyframes.T_map_camera, self._intrinsics, length)
            colors = np.repeat(confidence_colors(keyframes.confidence), 8, axis=0)
            self._draw_lines('Keyframes', lines, np.repeat(colors[:, None], 2, axis=1))
            self._draw_lines('Graph', *link_lines(keyframes))
            self._draw_ellipsoids(keyframes)

    def _draw_lines(self, layer: str, lines: np.ndarray, colors: Any) -> None:
        if not len(lines):
            self._remove(layer)
            return
        self._nodes[layer] = self._server.scene.add_line_segments(
            _name(layer),
            lines.astype(np.float32),
            colors,
            thickness=_THIN_PX if layer == 'Graph' else _LINE_PX,
            thickness_units='screen',
            visible=self.panel.is_shown(layer),
        )

    def _draw_ellipsoids(self, keyframes: ShownKeyframes) -> None:
        from trimesh.creation import icosphere

        # Only while they are shown: they are computed for each keyframe.
        centres = np.empty((0, 3))
        if self.panel.is_shown('Covariance'):
            centres, wxyz, half_axes = ellipsoids(keyframes, self._reach)
        if not len(centres):
            self._remove('Covariance')
            return
        sphere = icosphere(subdivisions=2)
        self._nodes['Covariance'] = self._server.scene.add_batched_meshes_simple(
            _name('Covariance'), sphere.vertices, sphere.faces, wxyz, centres,
            batched_scales=half_axes, batched_colors=_ELLIPSOID_COLOR, opacity=0.45,
            cast_shadow=False, receive_shadow=False,
        )  # fmt: skip

    def _draw_camera(
        self, T_map_camera: np.ndarray, image: np.ndarray | None, intrinsics: Intrinsics | None
    ) -> None:
        fov, aspect = _USUAL_FOV, 4 / 3
        if intrinsics is not None:
            fov = 2.0 * math.atan(0.5 * intrinsics.height / intrinsics.fy)
            aspect = intrinsics.width / intrinsics.height
        camera, scale = self._nodes.get('Camera'), 2.0 * self._frustum_length
        if camera is None:
            camera = self._nodes['Camera'] = self._server.scene.add_camera_frustum(
                _name('Camera'), fov, aspect, scale=scale, color=_CAMERA_COLOR,
                thickness=_LINE_PX, thickness_units='screen',
                visible=self.panel.is_shown('Camera'), cast_shadow=False, receive_shadow=False,
            )  # fmt: skip
        with self._server.atomic():
            camera.fov, camera.aspect, camera.scale = fov, aspect, scale
            camera.image = image
            camera.wxyz = np.roll(quat_xyzw(T_map_camera), 1)
            camera.position = T_map_camera[:3, 3]

    def _remove(self, layer: str) -> None:
        node = self._nodes.pop(layer, None)
        if node is not None:
            node.remove()

    @property
    def _frustum_length(self) -> float:
        return _FRUSTUM_SHARE * self._reach * self.panel.camera_size.value

    # Controls; called in threads of the server.

    def _switch_layer(self, layer: str, shown: bool) -> None:
        with self._lock:
            if layer == 'Points':
                self.points.set_visible(shown)
            elif layer == 'Covariance':
                self._draw_keyframes()
            elif layer in self._nodes:
                self._nodes[layer].visible = shown

    def _resize_points(self, factor: float) -> None:
        with self._lock:
            self.points.set_size(factor)

    def _limit_points(self, thousands: int) -> None:
        with self._lock:
            self.points.set_most_drawn(1000 * thousands)

    def _hide_weak(self, percent: int) -> None:
        with self._lock:
            self.points.set_hidden_share(percent / 100)
            self.points.refine(self._eyes())

    # Views of the open pages.

    def _follow(self) -> None:
        with self._lock:
            if self._T_map_camera is None or not self.panel.follow.value:
                return
            centre, length = self._T_map_camera[:3, 3], _FRUSTUM_SHARE * self._reach
            forward = _level(self._T_map_camera[:3, 2], np.array([1.0, 0.0, 0.0]))
            eye = centre + length * (_FOLLOW_UP * _UP - _FOLLOW_BACK * forward)
            for client in self._server.get_clients().values():
                _look(client, eye, centre + _FOLLOW_AHEAD * length * forward)

    def _eyes(self) -> list[np.ndarray]:
        return [client.camera.position for client in self._server.get_clients().values()]

    def _refine(self) -> None:
        self._detail_wait.wait(_DETAIL_PERIOD_S)
        with self._lock:
            self.points.refine(self._eyes())


def _look(client: viser.ClientHandle, eye: np.ndarray, target: np.ndarray) -> None:
    with client.atomic():
        client.camera.position = eye
        client.camera.look_at = target


def _name(layer: str) -> str:
    assert layer in LAYERS
    return f'/{layer.lower()}'


def _level(direction: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the horizontal unit vector (3,) of a direction."""
    level = direction - (direction @ _UP) * _UP
    length = float(np.linalg.norm(level))
    return level / length if length > 1e-3 else otherwise


def _resized(image: np.ndarray) -> np.ndarray:
    """Return an image of the width of the panel."""
    height, width = image.shape[:2]
    size = (_IMAGE_WIDTH, max(round(height * _IMAGE_WIDTH / width), 1))
    shrinks = width > _IMAGE_WIDTH
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)


def _print_error(error: Exception) -> None:
    traceback.print_exception(error)
