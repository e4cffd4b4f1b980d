"""The sweeper for Hydra on Optuna: studies, trials, claims, and the summary of a sweep."""
