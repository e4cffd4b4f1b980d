"""Losses of full-size logits computed in tiles, so that these never are in memory."""
