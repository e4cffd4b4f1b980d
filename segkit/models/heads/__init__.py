"""Heads, a file each, from a backbone's maps to logits."""
