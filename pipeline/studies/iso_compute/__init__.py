"""The iso-compute study: model size against rows at one budget of compute."""
