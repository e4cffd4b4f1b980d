"""Config options of commands in which a word means something else than in training."""
