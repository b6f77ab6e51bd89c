"""r3-tiny: depth by a small transformer, relative poses by dense matching and a solver."""
