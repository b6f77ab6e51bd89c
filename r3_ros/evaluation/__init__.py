"""Errors against ground truth, of one run and of predictors on many streams."""
