"""Trackers: records of a run outside its folder."""
