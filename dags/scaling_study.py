"""The Airflow DAG of the study that asks what still pays: more data, more parameters or more compute."""

from operators.study_dag import study_dag

dag = study_dag("scaling")
