"""The keyframe bank: admission, eviction and retrieval of keyframes."""
