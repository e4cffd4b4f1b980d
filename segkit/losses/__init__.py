"""Losses, a file each, on logits at the head's own stride."""
