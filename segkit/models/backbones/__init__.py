"""Backbones that give maps at several strides."""
