"""The controls beside the scene: status, images, view, layers, time, commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
import html
from typing import Any, TYPE_CHECKING

import numpy as np

from ..core.errors import R3Error
from .view_data import Command

if TYPE_CHECKING:
    import viser

#: Layer -> whether it is shown at first.
LAYERS = {
    'Points': True,
    'Camera': True,
    'Keyframes': True,
    'Graph': True,
    'Path': True,
    'Truth': True,
    'Covariance': False,
}
_STATE_COLORS = {'tracking': '#2fb344', 'low_confidence': '#f59f00', 'lost': '#e03131'}
_OTHER_COLOR = '#868e96'
_NO_IMAGE = np.full((3, 4, 3), 235, np.uint8)


class Panel:
    """Controls and the text beside them; the values are those of all open pages."""

    def __init__(
        self,
        server: viser.ViserServer,
        on_layer: Callable[[str, bool], None],
        on_fit: Callable[[], None],
        most_drawn: int,
    ) -> None:
        """Make the controls.

        :param on_layer: called in a thread of the server when a layer is switched.
        """
        gui = self._gui = server.gui
        server.gui.configure_theme(
            dark_mode=True, control_layout='floating', show_logo=False, show_share_button=False
        )
        self._status = gui.add_html('')
        self._image = gui.add_image(_NO_IMAGE, label='Image', visible=False)
        self._depth = gui.add_image(_NO_IMAGE, label='Depth', visible=False)
        self._time_folder = gui.add_folder('Time', visible=False)
        self.time: Any = None
        with gui.add_folder('View'):
            gui.add_button('Fit the map').on_click(lambda _: on_fit())
            self.follow = gui.add_checkbox(
                'Follow', False, hint='move with the camera; otherwise the mouse moves the view'
            )
            self.point_size = gui.add_slider('Point size', 0.2, 4.0, 0.1, 1.0)
            self.hidden_percent = gui.add_slider(
                'Hide weak (%)', 0, 90, 5, 0, hint='share of the least confident points to hide'
            )
            self.most_drawn = gui.add_slider(
                'Points (k)', 50, 3000, 50, most_drawn // 1000,
                hint='thousands of points drawn at once, the nearest in full detail',
            )  # fmt: skip
            self.camera_size = gui.add_slider('Camera size', 0.2, 4.0, 0.1, 1.0)
        self._layers = {}
        with gui.add_folder('Layers', expand_by_default=False):
            for layer, shown in LAYERS.items():
                box = self._layers[layer] = gui.add_checkbox(layer, shown)
                box.on_update(partial(_switch, on_layer, layer))

    def is_shown(self, layer: str) -> bool:
        """Return whether a layer is switched on."""
        return self._layers[layer].value

    def show_status(self, state: str, facts: Mapping[str, str]) -> None:
        """Show the tracking state, and rows of a label and a value."""
        color = _STATE_COLORS.get(state, _OTHER_COLOR)
        rows = ''.join(
            f'<tr><td style="color:#868e96;padding-right:0.8em;white-space:nowrap">'
            f'{html.escape(label)}</td><td>{html.escape(value)}</td></tr>'
            for label, value in facts.items()
        )
        words = html.escape(state.replace('_', ' '))
        self._status.content = (
            '<div style="padding:0.2em 0.75em;font-size:0.8em">'
            f'<div style="font-weight:600;font-size:1.15em"><span style="color:{color}">&#9679;'
            f'</span> {words}</div><table>{rows}</table></div>'
        )

    def show_images(self, image: np.ndarray | None, depth: np.ndarray | None) -> None:
        """Show (H, W, 3) uint8 images; None hides one."""
        for handle, pixels in ((self._image, image), (self._depth, depth)):
            if pixels is not None:
                handle.image = pixels
            handle.visible = pixels is not None

    def add_time(self, duration_s: float, on_time: Callable[[float], None]) -> None:
        """Add a slider over the seconds of a finished run, in the place of an earlier one."""
        self.remove_time()
        end_s = max(round(duration_s, 2), 0.01)
        with self._time_folder:
            self.time = self._gui.add_slider('Seconds', 0.0, end_s, 0.01, end_s)
        self.time.on_update(lambda event: on_time(event.target.value))
        self._time_folder.visible = True

    def remove_time(self) -> None:
        """Remove the slider."""
        if self.time is not None:
            self.time.remove()
            self.time = None
        self._time_folder.visible = False

    def add_commands(self, title: str, commands: Sequence[Command]) -> None:
        """Add a folder of controls that call something outside."""
        with self._gui.add_folder(title):
            for command in commands:
                self._add_command(command)

    def _add_command(self, command: Command) -> None:
        value, gui = command.value, self._gui
        if isinstance(value, bool):
            switch = gui.add_checkbox(command.label, value, hint=command.hint)
            switch.on_update(lambda event: _call(command, event, event.target.value))
            return
        field: Any = None
        if isinstance(value, str):
            field = gui.add_text(command.value_label, value, hint=command.hint)
        elif value is not None:
            field = gui.add_number(command.value_label, value, hint=command.hint)
        button = gui.add_button(command.label, hint=command.hint)
        button.on_click(lambda event: _call(command, event, field.value if field else None))


def _switch(on_layer: Callable[[str, bool], None], layer: str, event: Any) -> None:
    on_layer(layer, event.target.value)


def _call(command: Command, event: Any, value: Any) -> None:
    """Call a command and show its answer on the page that asked for it."""
    if event.client is None:
        return  # set by this program
    try:
        message, color = command.call(value), None
    except R3Error as error:
        message, color = str(error), 'red'
    event.client.add_notification(
        command.label, message, color=color, auto_close_seconds=None if color else 8.0
    )
