"""Offline reconstruction: windows of pictures that see one another, joined by a pose graph.

``pictures`` makes them ready, ``windows`` says which are shown together, ``relations`` and
``window_poses`` turn what was predicted into poses of one window, ``joining`` and ``window_graph``
bring all windows into one world, and ``reconstruction`` runs the whole.
"""
