"""From files to batches: splits, and loaders for training and evaluation."""
