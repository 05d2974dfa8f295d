"""Tests that start several training processes."""
