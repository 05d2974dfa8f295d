"""The Airflow DAG of the study that asks how large a model to train on how many rows, for a budget of compute."""

from operators.study_dag import study_dag

dag = study_dag("iso_compute")
