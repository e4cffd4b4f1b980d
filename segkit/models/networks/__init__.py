"""Whole networks that are not a backbone with a head."""
