"""The study that tunes batch size and learning rate of every arm."""
