"""Processes that read and augment samples, and what makes batches of them."""
