"""From a raw log to windows."""
