"""Golden files: results of the R3 authors' code, compared with ours.

A golden file holds inputs and what the authors' code made of them, with made-up weights that a
script computes from their names. ``golden`` reads a file, ``network_runs``, ``poses`` and
``pixels`` compute the same with our code, ``comparison`` judges the difference, ``runner`` goes
through the files. See docs/parity.md.
"""
