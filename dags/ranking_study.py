"""The Airflow DAG of the study that asks whether configurations can be compared on a fraction of the rows."""

from operators.study_dag import study_dag

dag = study_dag("ranking")
