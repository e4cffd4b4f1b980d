"""What each command does beside training: evaluate, predict, check and set up data, browse, multirun."""
