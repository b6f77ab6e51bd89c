"""The cache of R3: frames on the device, in host memory, or recomputed from their images."""
