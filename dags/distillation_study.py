"""The Airflow DAG of the study that asks when a student should stop learning from its teacher."""

from operators.study_dag import study_dag

dag = study_dag("distillation")
