"""Figures, panels and pages for people to look at."""
