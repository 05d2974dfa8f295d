"""The chain of steps of a variant: planned, trained, published, looked after."""
