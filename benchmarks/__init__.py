"""What Windrow's training is measured against, and how: `python -m benchmarks`."""
