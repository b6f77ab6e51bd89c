"""Estimates against the truth: of one run, and of predictors on many streams."""
