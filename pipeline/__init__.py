"""Windrow's rooms, from a raw click log to compared variants."""
