"""Click models, a file each, found by name among the entry points of `windrow.models`."""
