"""What a run needs from its machine: checkpoints, logs, progress."""
