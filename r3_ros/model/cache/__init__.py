"""What R3 remembers of frames: on the device, in host memory, or computed again."""
