"""Tests of the statistics, which need neither lake nor training."""
