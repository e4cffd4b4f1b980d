"""What the launchers call: arguments, messages, streams; nothing heavy is imported at the top."""
