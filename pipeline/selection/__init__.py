"""Which examples of a window are trained on, and with what weight or offset."""
