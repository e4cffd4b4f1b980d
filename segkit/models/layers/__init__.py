"""Layers that several heads and networks share."""
