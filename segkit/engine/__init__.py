"""The training loop, evaluation, and what is saved, logged and stopped on the way; it is handed objects."""
