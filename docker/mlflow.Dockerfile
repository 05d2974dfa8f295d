# The MLflow server with the drivers for its database and its artifacts' store.
FROM python:3.11-slim-bookworm
COPY requirements/lock-mlflow.txt /tmp/lock.txt
RUN pip install --no-cache-dir --no-deps --require-hashes -r /tmp/lock.txt \
    && useradd --create-home --uid 1000 windrow
USER windrow
WORKDIR /home/windrow
