"""The Airflow DAG of the study that asks which rows of a log are worth training on."""

from operators.study_dag import study_dag

dag = study_dag("selection")
