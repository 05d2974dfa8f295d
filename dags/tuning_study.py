"""The Airflow DAG of the study that asks which batch size and learning rate suit each arm."""

from operators.study_dag import study_dag

dag = study_dag("tuning")
