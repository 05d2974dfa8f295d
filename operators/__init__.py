"""Runs jobs on a Ray cluster from Airflow, and knows nothing of training."""
