"""Training of the R3 network on procedural worlds and on recordings (needs torch).

``clips`` are the training data, ``losses`` the error terms, ``objective`` their weighted sum and
``trainer`` the optimisation. See docs/training.md.
"""
