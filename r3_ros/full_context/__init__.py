"""Offline reconstruction: windows of images that see one another, joined by a pose graph.

``window_images`` makes them ready, ``window_order`` says which are shown together,
``window_relations`` and ``window_poses`` turn what was predicted into poses of one window,
``window_placing``, ``window_joining`` and ``window_graph`` bring all windows into one world,
``window_clouds`` keeps their points, and ``reconstruction`` runs the whole.
"""
