"""The Airflow DAG of the study that asks how many negatives can be left out."""

from operators.study_dag import study_dag

dag = study_dag("downsampling")
