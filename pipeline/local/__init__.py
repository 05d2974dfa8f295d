"""A laptop's services and the demo."""
