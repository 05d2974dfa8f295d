"""The scaling study: loss against data, parameters and compute, one at a time."""
