"""From windows to checkpoints."""
