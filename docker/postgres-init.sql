-- One database each; Postgres's image runs this once, on an empty volume.
CREATE DATABASE airflow;
CREATE DATABASE mlflow;
