"""What describes the package in several places agrees, and the set-up script does its steps."""

import ast
from collections import defaultdict
import functools
import importlib.util
import os
from pathlib import Path
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

from paths import ROOT
import pytest
import r3_ros
from sources import syntax_trees

INTERFACES = sorted([*ROOT.glob('msg/*.msg'), *ROOT.glob('srv/*.srv')])
UNDERLAY = sorted(path.parent for path in ROOT.glob('underlay/*/package.xml'))

#: Import names whose package has another name.
PACKAGE_OF = {
    'PIL': 'pillow',
    'cv2': 'opencv-python-headless',
    'faiss': 'faiss-cpu',
    'foxglove': 'foxglove-sdk',
    'rerun': 'rerun-sdk',
    'yaml': 'pyyaml',
}
#: Imported where there is a GPU, and named as an extra.
OPTIONAL = {'cupy'}


def text(name):
    return (ROOT / name).read_text(encoding='utf-8')


def manifest():
    return ET.fromstring(text('package.xml'))


def declared_in_manifest():
    tags = ('depend', 'build_depend', 'exec_depend', 'test_depend')
    return {element.text for tag in tags for element in manifest().iter(tag)}


def requirements_of_setup(extras=True):
    """Return the names that setup.py requires, in lower case; CuPy is left out.

    :param extras: with those of the extras.
    """
    tree = ast.parse(text('setup.py'))
    values = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    lists = [values[name] for name in ('R3', 'VIEW', 'EXPORT', 'BATCH', 'BENCH')] if extras else []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == 'install_requires':
            lists.append(node.value)
    items = [item for each in lists for item in ast.literal_eval(each)]
    assert items, 'setup.py requires nothing'
    return {re.split(r'[<>=!\[;]', item)[0].lower() for item in items}


def requirements_in(name):
    lines = (line.split('#')[0].strip() for line in text(f'requirements/{name}').splitlines())
    return [line for line in lines if line and not line.startswith('-')]


@functools.cache
def third_party_imports():
    """Return the root names that the package imports, other than its own and the standard ones."""
    names = set()
    for tree in syntax_trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name.split('.')[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.split('.')[0])
    return names - set(sys.stdlib_module_names) - {'r3_ros'}


def is_of_ros(name):
    declared = declared_in_manifest()
    return name in declared and not name.startswith('python3-') and name not in OPTIONAL


# --- One version, one list of everything ---


def test_there_is_one_version():
    assert manifest().findtext('version') == r3_ros.__version__
    newest = re.search(r'^(\d+\.\d+\.\d+) ', text('CHANGELOG.rst'), re.MULTILINE)
    assert newest and newest[1] == r3_ros.__version__
    assert r3_ros.__version__ not in text('setup.py'), 'setup.py reads it from the package'


def test_every_interface_is_built():
    named = set(re.findall(r'^\s+((?:msg|srv)/\w+\.(?:msg|srv))$', text('CMakeLists.txt'), re.M))
    assert named == {str(path.relative_to(ROOT)) for path in INTERFACES}


@pytest.mark.parametrize('path', INTERFACES, ids=lambda path: path.name)
def test_interfaces_say_what_they_are_for(path):
    assert path.read_text().startswith('# ')


def test_a_result_code_means_the_same_in_every_service():
    meanings = defaultdict(set)
    for path in ROOT.glob('srv/*.srv'):
        for name, value in re.findall(r'^uint16 ([A-Z_]+)=(\d+)', path.read_text(), re.M):
            meanings[value].add(name)
            meanings[name].add(value)
    assert meanings
    assert not {key: found for key, found in meanings.items() if len(found) > 1}


def test_what_is_imported_is_declared_for_pip():
    wanted = {
        PACKAGE_OF.get(name, name)
        for name in third_party_imports() - OPTIONAL
        if not is_of_ros(name)
    }
    assert wanted <= requirements_of_setup()


def test_networks_viewer_exports_and_batches_are_extras():
    base, extras = requirements_of_setup(extras=False), {'huggingface_hub', 'safetensors', 'torch'}
    extras |= {'faiss-cpu', 'foxglove-sdk', 'ray', 'rerun-sdk', 'trimesh', 'viser'}
    assert not base & extras
    assert requirements_of_setup() - base >= extras


def test_what_is_imported_from_ros_is_declared_for_rosdep():
    ros_like = {name for name in third_party_imports() if re.search(r'_(msgs|srvs|py|ros)$', name)}
    ros_like |= third_party_imports() & {'rclpy', 'tf_transformations', 'launch'}
    ros_like |= {'launch_ros', 'ament_index_python'} & third_party_imports()
    ros_like |= {'builtin_interfaces', 'rcl_interfaces'} & third_party_imports()
    assert ros_like <= declared_in_manifest()


def test_the_libraries_the_package_stands_on_are_declared_for_rosdep():
    names = {'rclpy', 'sensor_msgs_py', 'tf_transformations', 'launch_ros', 'cupy'}
    names |= {'launch', 'ros2launch'}
    names |= {'python3-torch', 'python3-numpy', 'python3-opencv', 'python3-pil', 'python3-pytest'}
    assert names <= declared_in_manifest()


def test_both_distributions_have_the_same_wheels():
    def interfaces(name, prefix):
        found = {line.removeprefix(prefix) for line in requirements_in(name)}
        return {line for line in found if line.endswith(('-msgs', '-srvs'))}

    jazzy = interfaces('ros-jazzy.txt', 'ros-jazzy-')
    assert jazzy == interfaces('ros-kilted.txt', 'ros-')
    imported = {name.replace('_', '-') for name in third_party_imports() if name.endswith('_msgs')}
    # rosgraph_msgs comes with rclpy; underlay/ makes tf2_msgs.
    assert imported - {'rosgraph-msgs', 'tf2-msgs'} <= jazzy


def test_the_distribution_is_chosen_in_one_place():
    chosen = [
        path
        for path in ('Makefile', '.ci/run', *(f'scripts/{p.name}' for p in ROOT.glob('scripts/*')))
        if (ROOT / path).is_file() and re.search(r'=\s*jazzy', text(path))
    ]
    assert chosen == ['Makefile']


def test_constraints_pin_what_is_required_somewhere():
    pinned = {line.split('==')[0].lower() for line in requirements_in('constraints.txt')}
    required = requirements_of_setup() | {
        line.lower()
        for name in ('build.txt', 'development.txt', 'docs.txt')
        for line in requirements_in(name)
    }
    assert pinned <= required
    assert requirements_of_setup() <= pinned


@pytest.mark.parametrize('path', UNDERLAY, ids=lambda path: path.name)
def test_underlay_packages_are_named_as_their_folders(path):
    assert ET.parse(path / 'package.xml').findtext('name') == path.name
    assert f'project({path.name}' in (path / 'CMakeLists.txt').read_text()
    # A colcon build of a whole workspace must not find them.
    assert (path.parent / 'COLCON_IGNORE').exists()


def test_launch_files_import_what_is_declared():
    declared = declared_in_manifest() | {'r3_ros'} | set(sys.stdlib_module_names)
    for path in (*ROOT.glob('launch/*.py'), *ROOT.glob('examples/launch/*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.split('.')[0] for name in names} <= declared, path


@pytest.mark.parametrize('path', sorted(ROOT.glob('bin/*')), ids=lambda path: path.name)
def test_executables_can_be_executed(path):
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith('#!/usr/bin/env python3\n')
    assert f'bin/{path.name}' in text('CMakeLists.txt')


def test_continuous_integration_runs_the_test_command_of_the_readme():
    assert re.search(r'\bmake (\w+ )*test$', text('.ci/run'), re.M)
    assert re.search(r'^make test$', text('README.md'), re.M)


# --- What was built ---


@pytest.mark.ros
def test_every_interface_can_be_imported():
    from r3_ros import msg, srv

    for path in INTERFACES:
        assert hasattr(msg if path.suffix == '.msg' else srv, path.stem)
    assert msg.StreamStatus.STATE_FAULT == 9
    assert srv.SaveMap.Response.NO_SPACE == 5


@pytest.mark.ros
def test_the_installed_package_holds_every_source():
    folders = [Path(path) for path in r3_ros.__path__ if Path(path) != ROOT / 'r3_ros']
    installed = next((path for path in folders if (path / 'msg').is_dir()), None)
    assert installed, f'no installed r3_ros among {folders}'
    for path in (ROOT / 'r3_ros').rglob('*.py'):
        copy = installed / path.relative_to(ROOT / 'r3_ros')
        assert copy.exists(), f'{copy} is missing: run make setup (or colcon build)'
        assert copy.read_bytes() == path.read_bytes(), f'{copy} is out of date: make setup'


@pytest.mark.ros
def test_the_share_folder_holds_what_a_launch_needs():
    packages = pytest.importorskip('ament_index_python.packages')
    share = Path(packages.get_package_share_directory('r3_ros'))
    for folder in ('config', 'launch', 'rviz', 'security'):
        for path in (ROOT / folder).rglob('*.*'):
            if '__pycache__' not in path.parts:
                assert (share / path.relative_to(ROOT)).exists(), f'{path} is not installed'
    for path in ROOT.glob('bin/*'):
        assert os.access(
            Path(packages.get_package_prefix('r3_ros')) / 'lib/r3_ros' / path.name, os.X_OK
        )


# --- The set-up script ---


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """Return the set-up script as a module that works in an empty folder."""
    spec = importlib.util.spec_from_file_location(
        'setup_environment', ROOT / 'scripts/setup_environment.py'
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, 'ROOT', tmp_path)
    monkeypatch.setattr(module, 'VENV', tmp_path / '.venv')
    monkeypatch.setattr(module, 'VENV_PYTHON', Path(sys.executable))
    monkeypatch.setattr(module, 'STAMPS', tmp_path / '.venv/stamps')
    monkeypatch.setattr(module, 'LOGS', tmp_path / 'log/setup')
    monkeypatch.setattr(module, 'UNDERLAY', tmp_path / 'underlay')
    return module


def test_missing_tools_are_named_with_their_packages(setup, monkeypatch):
    monkeypatch.setattr(setup.shutil, 'which', lambda name: None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(setup.SetupError) as error:
        setup.check_machine()
    for package in ('g++', 'cmake', 'python3-venv'):
        assert re.search(rf'sudo apt install .*{re.escape(package)}', str(error.value))


def test_a_python_without_wheels_is_refused(setup, monkeypatch):
    monkeypatch.setattr(setup, 'OLDEST_PYTHON', (4, 0))
    with pytest.raises(setup.SetupError, match='PYTHON='):
        setup.check_machine()


def test_the_wheels_cmake_files_are_pointed_to_this_machine(setup):
    import sysconfig

    import numpy as np

    folder = setup.VENV / 'share/std_msgs/cmake'
    folder.mkdir(parents=True)
    path = folder / 'export_std_msgs__rosidl_generator_pyExport.cmake'
    other = '/opt/python/cp312-cp312'
    path.write_text(
        f'INTERFACE_INCLUDE_DIRECTORIES "{other}/include/python3.12;'
        f'{other}/lib/python3.12/site-packages/numpy/_core/include"\n'
        'LOCATION "${_IMPORT_PREFIX}/lib/libstd_msgs.so"\n'
    )
    for _ in range(2):
        setup.repair_cmake_files(dict(os.environ))
        assert path.read_text() == (
            f'INTERFACE_INCLUDE_DIRECTORIES "{sysconfig.get_paths()["include"]};'
            f'{np.get_include()}"\nLOCATION "${{_IMPORT_PREFIX}}/lib/libstd_msgs.so"\n'
        )


def test_only_what_the_environment_lacks_is_taken_from_the_underlay(setup):
    setup.VENV.mkdir()
    for name in ('numpy', 'surely_not_installed'):
        (setup.UNDERLAY / name).mkdir(parents=True)
        (setup.UNDERLAY / name / 'package.xml').touch()
    found = setup.missing_underlay(dict(os.environ))
    assert [path.name for path in found] == ['surely_not_installed']


def test_a_new_build_is_due_for_new_files_and_changed_messages_only(setup):
    for name in ('msg/A.msg', 'r3_ros/a.py', 'CMakeLists.txt', 'package.xml'):
        path = setup.ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('int32 x\n')
    keys = [setup.workspace_digest()]

    def changed():
        keys.append(setup.workspace_digest())
        return keys[-1] != keys[-2]

    (setup.ROOT / 'r3_ros/a.py').write_text('x = 2\n')
    assert not changed(), 'sources are linked, so an edit needs no build'
    (setup.ROOT / 'r3_ros/b.py').touch()
    assert changed()
    (setup.ROOT / 'msg/A.msg').write_text('int64 x\n')
    assert changed()
    (setup.ROOT / 'r3_ros/b.py').unlink()
    assert changed()


def test_a_failed_step_shows_the_end_of_its_log_and_leaves_no_stamp(setup):
    program = 'print(*range(1000), sep="\\n"); print("the reason"); raise SystemExit(3)'
    with pytest.raises(setup.SetupError, match='exit status 3') as error:
        setup.run_logged('Some step', [sys.executable, '-c', program], dict(os.environ))
    assert str(error.value).endswith('the reason')
    assert len(str(error.value).splitlines()) < 60
    assert not setup.is_stamped('step', 'key')
    setup.stamp('step', 'key')
    assert setup.is_stamped('step', 'key') and not setup.is_stamped('step', 'other')


def test_another_ros_is_kept_out_of_the_environment(setup, monkeypatch):
    monkeypatch.setenv('AMENT_PREFIX_PATH', '/opt/ros/jazzy')
    monkeypatch.setenv('PYTHONPATH', '/opt/ros/jazzy/lib/python3.12/site-packages')
    monkeypatch.setenv('LD_LIBRARY_PATH', '/opt/ros/jazzy/lib')
    environment = setup.clean_environment()
    assert not [value for value in environment.values() if '/opt/ros' in value]
    assert environment['PATH'].startswith(str(setup.VENV / 'bin'))


def test_an_environment_of_a_folder_that_was_moved_is_refused(setup):
    setup.create_venv()
    setup.create_venv()
    setup.stamp('place', '/elsewhere/.venv')
    with pytest.raises(setup.SetupError, match='make distclean'):
        setup.create_venv()


def test_a_second_distribution_is_refused(setup):
    setup.STAMPS.mkdir(parents=True)
    (setup.STAMPS / 'distribution').write_text('kilted')
    with pytest.raises(setup.SetupError, match='make distclean'):
        setup.install_packages('jazzy', dict(os.environ))


@pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')
def test_make_lists_its_commands():
    answer = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    for command in ('setup', 'demo', 'test', 'test-all', 'lint', 'bench', 'clean'):
        assert f'make {command} ' in answer.stdout
