"""The lake looked after: what nothing names any more, and whether every file is what was written."""
