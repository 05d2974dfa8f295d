# A Ray node with the training code: for a CPU, or for GPUs with LOCK=requirements/lock-gpu.txt.
FROM python:3.11-slim-bookworm
ARG LOCK=requirements/lock.txt
ARG TORCH=torch==2.13.0
# An index of CPU builds spares several GB; by default pip's own index offers the CUDA build, which runs anywhere.
ARG TORCH_INDEX=
RUN useradd --create-home --uid 1000 windrow
WORKDIR /opt/windrow
COPY requirements requirements
RUN pip install --no-cache-dir ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$TORCH" \
    && pip install --no-cache-dir --no-deps --require-hashes -r "$LOCK"
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY operators operators
COPY pipeline pipeline
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
USER windrow
WORKDIR /home/windrow
