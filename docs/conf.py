"""The documentation site: `make docs`. Its source folder is the root, so links to README hold."""

from pathlib import Path
import re

ROOT = Path(__file__).resolve().parent.parent

project = 'r3_ros'
author = 'r3_ros developers'
copyright = author
release = re.search("__version__ = '(.+)'", (ROOT / 'r3_ros' / '__init__.py').read_text())[1]

extensions = ['myst_parser', 'sphinx_copybutton']
root_doc = 'docs/index'
include_patterns = ['README.md', 'CONTRIBUTING.md', 'CHANGELOG.rst', 'docs/**']
# Not walked through.
exclude_patterns = ['.*', 'build', 'install', 'log', 'demo_output', 'r3_ros', 'test', 'underlay']
templates_path = ['templates']
myst_heading_anchors = 4

html_theme = 'furo'
html_title = f'r3_ros {release}'
html_static_path = ['static']
html_css_files = ['site.css']
html_copy_source = False
# The address of the site itself leads to the index.
html_additional_pages = {'index': 'redirect.html'}
pygments_style = 'tango'
pygments_dark_style = 'monokai'
