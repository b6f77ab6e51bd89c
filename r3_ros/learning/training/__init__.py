"""Training of the R3 network on procedural worlds and on posed recordings (needs torch).

``clips`` are what is learned from, ``losses`` say how wrong an answer is, ``objective`` adds them
up, and ``trainer`` takes the steps. See docs/training.md.
"""
