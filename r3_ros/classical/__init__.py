"""Classical predictor: OpenCV features and geometry behind the predictor seam. No weights."""
