"""How good a predictor is in the stream: on sequences with a truth, beside other predictors."""
