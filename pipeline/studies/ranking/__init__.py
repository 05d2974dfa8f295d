"""The study that asks whether configurations can be compared on a fraction of the rows."""
