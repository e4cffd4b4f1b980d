"""Counts over a data set: pixels of each class, class weights, folds, strata."""
