"""Imports inside the package point one way, and heavy libraries stay where they belong.

docs/architecture.md has a diagram of the layers, CONTRIBUTING.md the table in words.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
import subprocess
import sys

from paths import ROOT
import pytest
from sources import PACKAGE, syntax_trees

#: Folder or module of r3_ros -> what it may import besides itself.
LAYERS = {
    'core': set(),
    'input': {'core'},
    'classical': {'core', 'input'},
    'model': {'core', 'input'},
    'maps': {'core', 'input'},
    'streaming': {'core', 'input', 'maps'},
    'factory': {'core', 'input', 'classical', 'model', 'streaming'},
    # The check of a recording measures what the classical predictor tracks.
    'offline': {'core', 'input', 'classical', 'maps', 'streaming', 'factory'},
    'evaluation': {'core', 'input', 'maps', 'streaming', 'factory', 'offline'},
    'viewer': {'core', 'input', 'maps', 'streaming', 'offline', 'evaluation'},
    'ros': {'core', 'input', 'maps', 'streaming', 'factory', 'offline', 'evaluation', 'viewer'},
    # Recordings without a truth are learned from with the poses of the classical predictor.
    'learning': {'core', 'input', 'classical', 'model', 'factory', 'offline', 'evaluation'},
    'commands': {
        *('core', 'input', 'classical', 'model', 'maps', 'streaming', 'factory', 'offline'),
        *('evaluation', 'viewer', 'ros', 'learning'),
    },
}
#: Third-party libraries that core needs.
CORE_LIBRARIES = {'cv2', 'numpy', 'PIL', 'scipy', 'yaml'}
ROS_MODULES = {
    'ament_index_python',
    'builtin_interfaces',
    'rcl_interfaces',
    'rclpy',
    'rosgraph_msgs',
    'sensor_msgs_py',
    'tf2_ros',
    'tf_transformations',
}
#: Library -> the modules that import it, all of them inside functions.
LAZY_LIBRARIES = {
    'cupy': {'streaming/keyframes/retrieval.py'},
    'evo': {'evaluation/trajectory_errors.py'},
    'faiss': {'commands/bench_against.py'},
    'foxglove': {'maps/exports/mcap_recording.py'},
    'gtsam': {'streaming/loops/pose_optimizer.py'},
    'huggingface_hub': {'model/weights/catalogue.py', 'model/weights/download.py'},
    'matplotlib': {'evaluation/figures.py'},
    'ray': {'evaluation/ray_tasks.py'},
    'rerun': {'maps/exports/rerun_recording.py'},
    'trimesh': {'maps/exports/gltf.py', 'viewer/scene.py'},
    'viser': {f'viewer/{name}.py' for name in ('panel', 'point_layer', 'scene', 'scene_server')},
}
#: Its modules may import them at once, and are imported inside functions.
LAZY_FOLDER = 'maps/exports/'
#: These compute with torch; others import them, and torch, inside functions.
TORCH_FOLDERS = {'model', 'learning'}
#: What of these needs no torch and may be imported at once.
WITHOUT_TORCH = ('r3_ros.model.weights.catalogue', 'r3_ros.model.weights.download')
VAGUE_NAMES = {'common', 'helpers', 'misc', 'tools', 'util', 'utils'}
MOST_TOP_LEVEL_NAMES = 15
MOST_LINES_OF_STEP = 40


@dataclass(frozen=True)
class Import:
    """One imported name.

    :ivar path: of the importing file, in r3_ros; ``folder``: the first part of it.
    :ivar name: absolute, with what is imported from a module as its last part.
    :ivar lazy: not imported with its module: inside a function, or under TYPE_CHECKING.
    """

    path: str
    line: int
    name: str
    lazy: bool

    @property
    def folder(self) -> str:
        return first_part(Path(self.path))

    @property
    def library(self) -> str:
        return self.name.split('.')[0]

    @property
    def target(self) -> str | None:
        """Return the folder or module of r3_ros that is imported; None for anything else."""
        parts = self.name.split('.')
        known = parts[0] == 'r3_ros' and len(parts) > 1
        return parts[1] if known and parts[1] in LAYERS else None

    def __str__(self) -> str:
        return f'{self.path}:{self.line} imports {self.name}'


def first_part(path: Path) -> str:
    return path.with_suffix('').parts[0]


def runs_later(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == 'TYPE_CHECKING'
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def imports_of(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Yield every import, lazy ones too, with relative names resolved."""
    lazy = {inner for node in ast.walk(tree) if runs_later(node) for inner in ast.walk(node)}
    package = ['r3_ros', *path.parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parent = '.'.join([*base, *([node.module] if node.module else [])])
            names = [f'{parent}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(path.as_posix(), node.lineno, name, node in lazy)


TREES = syntax_trees()
IMPORTS = [imported for path, tree in TREES.items() for imported in imports_of(path, tree)]


def assert_none(wrong) -> None:
    found = [str(each) for each in wrong]
    assert not found, '\n'.join(found)


def test_every_folder_has_its_layer():
    assert {first_part(path) for path in TREES} == {*LAYERS, '__init__'}


def test_imports_point_down_the_layers():
    assert_none(
        imported
        for imported in IMPORTS
        if imported.target not in {None, imported.folder, *LAYERS.get(imported.folder, ())}
    )


def test_modules_do_not_import_in_circles():
    modules = {'.'.join(['r3_ros', *path.with_suffix('').parts]) for path in TREES}
    graph = defaultdict(set)
    for imported in IMPORTS:
        importer = '.'.join(['r3_ros', *Path(imported.path).with_suffix('').parts])
        parent = imported.name.rpartition('.')[0]
        for name in (imported.name, parent, f'{imported.name}.__init__', f'{parent}.__init__'):
            if name in modules and name != importer:
                graph[importer].add(name)
                break
    assert 'r3_ros.input.source' in graph['r3_ros.input.open_source']
    TopologicalSorter(graph).prepare()  # raises at a circle


def test_the_package_itself_imports_the_standard_library_alone():
    assert {i.library for i in IMPORTS if i.path == '__init__.py'} <= {'pkgutil'}


def test_core_imports_few_libraries():
    allowed = {*sys.stdlib_module_names, 'r3_ros', *CORE_LIBRARIES}
    assert_none(i for i in IMPORTS if i.folder == 'core' and i.library not in allowed)


@pytest.mark.parametrize('module', ['core/errors.py', 'core/config.py'])
def test_lowest_modules_need_the_standard_library_alone(module):
    allowed = {*sys.stdlib_module_names, 'r3_ros', 'yaml'}
    assert_none(i for i in IMPORTS if i.path == module and i.library not in allowed)


def test_ros_is_imported_by_the_ros_layer_and_lazily_by_commands():
    def needs_ros(imported):
        return (
            imported.library in ROS_MODULES
            or imported.library.endswith(('_msgs', '_srvs'))
            or imported.name.startswith(('r3_ros.msg', 'r3_ros.srv', 'r3_ros.ros.'))
        )

    assert_none(
        imported
        for imported in IMPORTS
        if needs_ros(imported)
        and imported.folder != 'ros'
        and not (imported.folder == 'commands' and imported.lazy)
    )


@pytest.mark.parametrize('library', LAZY_LIBRARIES)
def test_heavy_libraries_are_imported_lazily_and_in_few_places(library):
    found = [imported for imported in IMPORTS if imported.library == library]
    assert {imported.path for imported in found} == LAZY_LIBRARIES[library]
    lazy = {imported.path for imported in found if imported.path.startswith(LAZY_FOLDER)}
    assert_none(imported for imported in found if not (imported.lazy or imported.path in lazy))
    modules = {f'r3_ros.{path.removesuffix(".py").replace("/", ".")}' for path in lazy}
    assert_none(i for i in IMPORTS if not i.lazy and i.name.startswith(tuple(modules)))


def test_safetensors_is_imported_where_weights_and_states_are_stored():
    found = {imported.path for imported in IMPORTS if imported.library == 'safetensors'}
    assert found == {'model/weights/checkpoint.py', 'learning/training/training_state.py'}


def test_torch_is_imported_by_what_computes_with_it_which_is_imported_lazily():
    wrong = []
    for imported in IMPORTS:
        if imported.folder in TORCH_FOLDERS:
            continue
        if imported.library == 'torch' and not (imported.folder == 'commands' and imported.lazy):
            wrong.append(imported)
        needs_torch = imported.target in TORCH_FOLDERS
        if needs_torch and not (imported.lazy or imported.name.startswith(WITHOUT_TORCH)):
            wrong.append(imported)
    assert_none(wrong)


def test_imports_inside_the_package_are_relative():
    wrong = []
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or '']
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            # The generated messages are no files of this folder.
            wrong += [
                f'{path}:{node.lineno} imports {name}'
                for name in names
                if name.split('.')[0] == 'r3_ros' and name not in ('r3_ros.msg', 'r3_ros.srv')
            ]
    assert_none(wrong)


def test_modules_are_named_for_what_they_do():
    assert not [path for path in TREES if path.stem in VAGUE_NAMES]


def twice(names) -> dict[str, list[str]]:
    """Return what has one name with something else: name -> paths."""
    found = defaultdict(list)
    for name, path in names:
        found[name].append(str(path))
    return {name: paths for name, paths in found.items() if len(paths) > 1}


def test_no_file_name_is_there_twice():
    assert twice((path.name, path) for path in TREES if path.stem != '__init__') == {}


def test_no_public_class_name_is_there_twice():
    classes = (
        (node.name, path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and not node.name.startswith('_')
    )
    assert twice(classes) == {}


def test_the_top_level_of_the_package_is_small():
    names = [path.name for path in PACKAGE.iterdir() if path.name != '__pycache__']
    assert len(names) <= MOST_TOP_LEVEL_NAMES, sorted(names)


def test_the_step_of_the_engine_fits_on_a_screen():
    (step,) = (
        function
        for node in TREES[Path('streaming/engine.py')].body
        if isinstance(node, ast.ClassDef) and node.name == 'Engine'
        for function in node.body
        if isinstance(function, ast.FunctionDef) and function.name == 'step'
    )
    assert step.end_lineno - step.lineno + 1 <= MOST_LINES_OF_STEP


def test_the_command_and_the_factory_start_without_the_heavy_libraries():
    modules = ('commands.cli', 'factory', 'core.predictor', 'model.weights.catalogue')
    heavy = {*LAZY_LIBRARIES, 'rclpy', 'safetensors', 'torch'}
    program = ''.join(f'import r3_ros.{name}; ' for name in modules)
    program += f'import sys; print(*{heavy} & set(sys.modules))'
    answer = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []
