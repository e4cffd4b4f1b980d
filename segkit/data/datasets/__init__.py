"""Data sets: one class each that says which files belong together."""
