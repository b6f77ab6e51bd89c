"""The classical predictor: features and geometry with OpenCV, no weights."""
