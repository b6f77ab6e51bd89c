"""Imports inside the package point one way, and heavy libraries stay where they belong.

The picture is in docs/architecture.md; the table in CONTRIBUTING.md says it in words.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
import subprocess
import sys

from paths import ROOT
import pytest

PACKAGE = ROOT / 'r3_ros'

#: Who may import whom: a later layer an earlier one. A unit is a module or folder of r3_ros.
LAYERS = (
    ('errors',),
    ('config', 'datatypes'),
    (
        'atomic_files',
        'geometry',
        'input_geometry',
        'input',
        'maps',
        'metric_depth',
        'pose_encoding',
        'predictor',
        'runtime',
        'trajectory_file',
        'window_prediction',
    ),
    ('classical', 'model', 'streaming', 'synth'),
    ('factory',),
    ('offline tools',),
    ('training',),
    ('ros',),
    ('commands',),
    ('cli',),
)
#: Layers whose units do not see each other.
APART = (1, 3)
#: Every module that no layer names: offline, evaluation, ...
OFFLINE_TOOLS = 'offline tools'

ROS_MODULES = {
    'ament_index_python',
    'builtin_interfaces',
    'cv_bridge',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'sensor_msgs_py',
    'tf2_ros',
    'tf_transformations',
}
#: Outside of ros/, these talk to nodes; they import ROS inside functions, so that they can be
#: imported without it.
TALK_TO_NODES = {'bag_player', 'commands', 'demo'}
#: These import torch, and everyone else imports them inside functions.
COMPUTE_WITH_TORCH = {'model', 'synth', 'training'}
#: What of these needs no torch and may be imported at once.
WITHOUT_TORCH = ('r3_ros.model.weights.catalogue', 'r3_ros.model.weights.download')
VAGUE_NAMES = {'common', 'helpers', 'misc', 'tools', 'util', 'utils'}


@dataclass(frozen=True)
class Import:
    """One import statement."""

    module: str
    lazy: bool
    where: str


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob('*.py'))


def unit_of(path: Path) -> str:
    """Return the first name of a module below r3_ros: ``ros`` for r3_ros/ros/node.py."""
    return path.relative_to(PACKAGE).with_suffix('').parts[0]


def layer_of(unit: str) -> int:
    for i, units in enumerate(LAYERS):
        if unit in units:
            return i
    return layer_of(OFFLINE_TOOLS)


def imports_of(path: Path) -> Iterator[Import]:
    """Yield every import, also those inside functions, with relative names resolved."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    in_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    package = ['r3_ros', *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = '.'.join([*base, *([node.module] if node.module else [])])
            # `from . import x` imports the module x, `from .x import y` as good as the module x.
            names = [f'{parent}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            where = f'{path.relative_to(PACKAGE.parent)}:{node.lineno} imports {name}'
            yield Import(name, node in in_functions, where)


def imported_unit(imported: Import) -> str | None:
    """Return the unit of r3_ros that is imported, None for anything else."""
    parts = imported.module.split('.')
    if parts[0] != 'r3_ros' or len(parts) < 2:
        return None
    name = parts[1]
    if name in ('msg', 'srv', '__version__') or not (
        (PACKAGE / name).is_dir() or (PACKAGE / f'{name}.py').exists()
    ):
        return None
    return name


def all_imports() -> list[tuple[Path, Import]]:
    return [(path, imported) for path in modules() for imported in imports_of(path)]


def root(imported: Import) -> str:
    return imported.module.split('.')[0]


def test_there_is_something_to_check():
    assert {'errors', 'config', 'streaming'} <= {unit_of(path) for path in modules()}
    assert any(imported_unit(imported) == 'errors' for _, imported in all_imports())


def test_imports_point_down_the_layers():
    wrong = []
    for path, imported in all_imports():
        importer, unit = unit_of(path), imported_unit(imported)
        if unit is None or unit == importer or importer == '__init__':
            continue
        above, below = layer_of(importer), layer_of(unit)
        if above < below or (above == below and above in APART):
            wrong.append(imported.where)
    assert not wrong, '\n'.join(wrong)


def test_modules_of_the_input_do_not_import_in_circles():
    imported = {
        path.stem: {
            other.module.split('.')[2]
            for other in imports_of(path)
            if other.module.startswith('r3_ros.input.')
        }
        for path in (PACKAGE / 'input').glob('*.py')
    }
    assert 'source' in imported['open_source']
    TopologicalSorter(imported).prepare()  # raises at a circle


def test_the_package_itself_imports_the_standard_library_alone():
    allowed = {'pkgutil'}
    assert {root(imported) for imported in imports_of(PACKAGE / '__init__.py')} <= allowed


@pytest.mark.parametrize('unit', ['errors', 'config'])
def test_lowest_modules_need_the_standard_library_alone(unit):
    wrong = [
        imported.where
        for imported in imports_of(PACKAGE / f'{unit}.py')
        if root(imported) not in {*sys.stdlib_module_names, 'r3_ros', 'yaml'}
    ]
    assert not wrong, '\n'.join(wrong)


def test_ros_is_imported_by_the_ros_layer_and_lazily_by_what_talks_to_nodes():
    wrong = []
    for path, imported in all_imports():
        name = root(imported)
        of_ros = name in ROS_MODULES or name.endswith(('_msgs', '_srvs'))
        of_ros |= imported.module.startswith(('r3_ros.msg', 'r3_ros.srv', 'r3_ros.ros'))
        if not of_ros or unit_of(path) == 'ros':
            continue
        if unit_of(path) not in TALK_TO_NODES or not imported.lazy:
            wrong.append(imported.where)
    assert not wrong, '\n'.join(wrong)


def test_the_ros_layer_knows_no_predictor():
    wrong = [
        imported.where
        for path, imported in all_imports()
        if unit_of(path) == 'ros' and imported_unit(imported) in ('classical', 'model', 'synth')
    ]
    assert not wrong, '\n'.join(wrong)


def test_only_commands_know_of_training():
    wrong = [
        imported.where
        for path, imported in all_imports()
        if imported_unit(imported) == 'training' and unit_of(path) not in ('training', 'commands')
    ]
    assert not wrong, '\n'.join(wrong)


def test_the_solver_is_imported_lazily_and_in_one_place():
    found = [(path.name, item.lazy) for path, item in all_imports() if root(item) == 'gtsam']
    assert found == [('pose_optimizer.py', True)]


def test_cupy_is_imported_lazily_and_in_one_place():
    found = [(path.name, item.lazy) for path, item in all_imports() if root(item) == 'cupy']
    assert found == [('retrieval.py', True)]


def test_torch_is_imported_by_what_computes_with_it_which_is_imported_lazily():
    wrong = []
    for path, imported in all_imports():
        importer = unit_of(path)
        if importer in COMPUTE_WITH_TORCH:
            continue
        if root(imported) == 'torch' and not (importer == 'commands' and imported.lazy):
            wrong.append(imported.where)
        needs_torch = imported_unit(imported) in COMPUTE_WITH_TORCH
        if needs_torch and not (imported.lazy or imported.module.startswith(WITHOUT_TORCH)):
            wrong.append(imported.where)
    assert not wrong, '\n'.join(wrong)


def test_imports_inside_the_package_are_relative():
    wrong = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or '']
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            # The generated messages are no files of this folder.
            wrong += [
                f'{path.relative_to(PACKAGE.parent)}:{node.lineno} imports {name}'
                for name in names
                if name.split('.')[0] == 'r3_ros' and name not in ('r3_ros.msg', 'r3_ros.srv')
            ]
    assert not wrong, '\n'.join(wrong)


def test_modules_are_named_for_what_they_do():
    assert not [path for path in modules() if path.stem in VAGUE_NAMES]


def test_the_command_and_the_factory_start_without_the_heavy_libraries():
    names = [name for name in ('cli', 'factory', 'predictor') if (PACKAGE / f'{name}.py').exists()]
    program = f'import {", ".join(f"r3_ros.{name}" for name in names)}; import sys; '
    program += 'import r3_ros.model.weights.catalogue; '
    heavy = {
        'rclpy',
        'torch',
        'cupy',
        'matplotlib',
        'evo',
        'safetensors',
        'huggingface_hub',
    }
    program += f'print(*{heavy} & set(sys.modules))'
    answer = subprocess.run(
        [sys.executable, '-c', program],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []
