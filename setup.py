"""Library and ``r3`` command without ROS; a ROS workspace is built by CMakeLists.txt instead."""

import ast
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent

#: The networks. safetensors reads without mapping the file from 0.8 on.
R3 = ['huggingface_hub>=1.0', 'safetensors>=0.8', 'torch>=2.2']
#: The view in the browser. Lines have widths from viser 1.1 on, which requires trimesh, too.
VIEW = ['trimesh>=4.0', 'viser>=1.1']
#: Formats of r3 map export.
EXPORT = ['foxglove-sdk>=0.20', 'rerun-sdk>=0.26', 'trimesh>=4.0']
#: r3 batch, r3 eval --workers. Ray accepts commands without a token before 2.52.
BATCH = ['ray>=2.52']
#: r3 bench --against faiss.
BENCH = ['faiss-cpu>=1.8']


def read_version() -> str:
    """Read ``__version__`` without importing the package, whose imports may not be there yet."""
    tree = ast.parse((HERE / 'r3_ros' / '__init__.py').read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__version__':
            return str(ast.literal_eval(node.value))
    raise RuntimeError('r3_ros/__init__.py assigns no __version__')


README = HERE / 'README.md'

setup(
    name='r3_ros',
    version=read_version(),
    description='Streaming perception from one camera: poses, depth and coloured maps',
    long_description=README.read_text(encoding='utf-8') if README.exists() else '',
    long_description_content_type='text/markdown',
    author='r3_ros developers',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['r3_ros', 'r3_ros.*']),
    package_data={
        'r3_ros': ['py.typed'],
        'r3_ros.classical': ['*.json'],
        'r3_ros.evaluation.report': ['*.css'],
        'r3_ros.model.weights': ['included/*'],
    },
    install_requires=[
        'av>=14.2',
        'evo>=1.31',
        # 4.3 is the first that works beside NumPy 2; for Python 3.10 there is a pre-release of it.
        'gtsam>=4.3a1',
        'matplotlib>=3.7',
        'numpy>=1.24',
        'opencv-python-headless>=4.8',
        'pillow>=9.1',
        'PyYAML>=6.0',
        # 0.11.2 is the first that opens paths of another kind than its own.
        'rosbags>=0.11.2',
        'scipy>=1.10',
        'tqdm>=4.60',
    ],
    extras_require={
        'r3': R3,
        # Training and the procedural world, which is rendered by torch.
        'learning': R3,
        'export': EXPORT,
        'view': VIEW,
        'batch': BATCH,
        'bench': BENCH,
        # One of them, to match the CUDA of the machine.
        'cuda12': ['cupy-cuda12x>=13.0'],
        'cuda13': ['cupy-cuda13x>=13.6'],
    },
    entry_points={'console_scripts': ['r3 = r3_ros.commands.cli:main']},
    zip_safe=False,
)
