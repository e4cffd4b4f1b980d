"""Segmentation models: a backbone with a head, and networks of their own."""
