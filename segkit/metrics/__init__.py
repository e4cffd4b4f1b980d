"""Confusion counts, the scores of them, and metrics of torchmetrics."""
