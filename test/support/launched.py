"""Launch files carried out, with recorders in the place of the programs they start.

A recorder writes its arguments and the parameter files they name, and ends. So what a launch file
starts is seen as the programs would see it, without those programs, of which most are not here.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import sys

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from paths import ROOT
import rclpy
from rclpy.node import Node
import yaml

from launch import LaunchDescription, LaunchService

#: Programs of other packages that our launch files start, and those of our own.
PROGRAMS = {
    'r3_ros': ('r3_stream', 'r3_viewer', 'r3_wait_active'),
    'rviz2': ('rviz2',),
    'v4l2_camera': ('v4l2_camera_node',),
    'usb_cam': ('usb_cam_node_exe',),
    'image_proc': ('rectify_node',),
    'depth_image_proc': ('point_cloud_xyzrgb_node',),
    'nvblox_ros': ('nvblox_node',),
    'rtabmap_slam': ('rtabmap',),
    'robot_localization': ('ekf_node',),
    'octomap_server': ('octomap_server_node',),
    'nav2_bringup': (),
}
#: Launch may end everything while Python still starts: that must not look like a failure.
STARTER = """#!/bin/sh
trap '' INT
exec {python} {recorder} "$@"
"""
RECORDER = """
import json, os, pathlib, signal, sys, time
folder, name, until = pathlib.Path({folder!r}), {name!r}, {until!r}
record = {{'program': name, 'arguments': sys.argv[1:], 'order': len(list(folder.iterdir()))}}
(folder / f'{{name}}.{{os.getpid()}}').write_text(json.dumps(record))
signal.signal(signal.SIGINT, lambda *_: sys.exit({status}))
for _ in range(600 if until else 0):
    if list(folder.glob(until + '.*')):
        break
    time.sleep(0.05)
sys.exit({status})
"""


@dataclass
class Started:
    """One program as it was started."""

    program: str
    arguments: list[str]
    order: int
    remappings: dict[str, str] = field(init=False)
    parameter_files: list[str] = field(init=False)

    def __post_init__(self) -> None:
        after = list(zip(self.arguments, self.arguments[1:], strict=False))
        rules = [value.split(':=') for key, value in after if key == '-r']
        self.remappings = {old: new for old, new in rules}
        self.parameter_files = [value for key, value in after if key == '--params-file']

    @property
    def name(self) -> str:
        """Full name of the node."""
        namespace = self.remappings.get('__ns', '/')
        return f'{namespace.rstrip("/")}/{self.remappings["__node"]}'

    def parameters(self) -> dict[str, object]:
        """Return the parameters as ROS itself reads them, the last word of all files."""
        context = rclpy.Context()
        first = self.arguments.index('--ros-args')
        rclpy.init(args=self.arguments[first:], context=context)
        try:
            node = Node(
                'unnamed', context=context, automatically_declare_parameters_from_overrides=True,
                start_parameter_services=False, enable_rosout=False,
            )  # fmt: skip
            values = {key: node.get_parameter(key).value for key in node._parameters}
            node.destroy_node()
        finally:
            rclpy.shutdown(context=context)
        return values


class Stage:
    """An ament prefix of recorders, first on the path, in which launch files are carried out."""

    def __init__(self, folder: Path, programs: dict[str, Iterable[str]] | None = None) -> None:
        self.prefix, self.records = folder / 'prefix', folder / 'records'
        self.records.mkdir()
        for package, names in (PROGRAMS if programs is None else programs).items():
            self.add(package, *names)

    def add(self, package: str, *programs: str) -> None:
        """Install a package with recorders; ours has the files of the source tree."""
        index = self.prefix / 'share/ament_index/resource_index/packages'
        index.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
        share = self.prefix / 'share' / package
        share.mkdir(parents=True)
        if package == 'r3_ros':
            for name in ('config', 'launch', 'rviz'):
                (share / name).symlink_to(ROOT / name)
        for program in programs:
            self.record(package, program)

    def record(self, package: str, program: str, until: str = '', status: int = 0) -> Path:
        """Install a recorder and return its folder.

        :param until: it ends when this program has been started, else at once.
        :param status: with which it ends.
        """
        path = self.prefix / 'lib' / package / program
        path.parent.mkdir(parents=True, exist_ok=True)
        recorder = path.with_name(f'{program}.py')
        recorder.write_text(
            RECORDER.format(name=program, folder=str(self.records), until=until, status=status)
        )
        path.write_text(STARTER.format(python=sys.executable, recorder=recorder))
        path.chmod(0o755)
        return path.parent

    def carry_out(self, name: str, /, **arguments: str) -> list[Started]:
        """Carry a launch file out until all that it started has ended; return what that was.

        :param name: of a file in ``launch/``, or ``examples/launch/...`` for an example.
        """
        path = ROOT / f'{name}.launch.py' if '/' in name else ROOT / 'launch' / f'{name}.launch.py'
        service = LaunchService(noninteractive=True)
        service.include_launch_description(
            LaunchDescription(
                [
                    IncludeLaunchDescription(
                        PythonLaunchDescriptionSource(str(path)),
                        launch_arguments=arguments.items(),
                    )
                ]
            )
        )
        self.status = service.run()
        records = [json.loads(path.read_text()) for path in self.records.iterdir()]
        for path in self.records.iterdir():
            path.unlink()
        return sorted((Started(**r) for r in records), key=lambda s: (s.program, s.arguments))


def on_path(stage: Stage) -> str:
    """Return the value of AMENT_PREFIX_PATH that puts the stage first."""
    return os.pathsep.join([str(stage.prefix), os.environ.get('AMENT_PREFIX_PATH', '')])


def write_parameters(path: Path, node: str, **parameters: object) -> str:
    """Write a ROS parameter file; ``__`` stands for the dot."""
    values = {key.replace('__', '.'): value for key, value in parameters.items()}
    path.write_text(yaml.safe_dump({node: {'ros__parameters': values}}))
    return str(path)
