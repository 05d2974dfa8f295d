# Airflow with the operators: no torch, no ray, no mlflow.
FROM apache/airflow:3.3.2-python3.11
COPY --chown=airflow:0 requirements/lock-airflow.txt /tmp/lock.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r /tmp/lock.txt
COPY --chown=airflow:0 setup.cfg pyproject.toml README.md LICENSE /opt/windrow/
COPY --chown=airflow:0 operators /opt/windrow/operators
COPY --chown=airflow:0 pipeline /opt/windrow/pipeline
# The image brings what else the light rooms of the pipeline import; the rest of the package stays unused here.
RUN pip install --no-cache-dir --no-deps /opt/windrow \
    && python -c "import operators.operator, operators.inputs, operators.study_dag, pipeline.storage.lake"
COPY --chown=airflow:0 dags /opt/airflow/dags
