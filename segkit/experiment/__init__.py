"""Joins the parts that a recipe names, for training, evaluation, prediction and sweeps."""
