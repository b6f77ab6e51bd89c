"""Offline reconstruction: windows of images predicted together, joined by a pose graph.

``window_images`` prepares the images and chooses those of each window,
``window_relations`` gives the poses within one window, ``window_placement``, ``window_joining``
and ``window_graph`` bring all windows into one world, ``window_clouds`` keeps their points, and
``reconstruction`` runs the whole.
"""
