# Every command of the project; `make help` lists them.

PYTHON ?= python3.11
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
LOCK ?= requirements/lock.txt
UV ?= uv

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo up down check docs format test test-long test-gpu browser bench lock

help: ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(STAMP) ## install the pinned environment into .venv

# torch comes beside the lock, in the build that pip's own configuration offers: PyPI's needs several GB but runs on a
# CPU too; `make setup TORCH_INDEX=<index of CPU builds>` takes the small one. It comes first, since the lock then puts
# torch's own dependencies right, and leaves out the `fbgemm-gpu` that pip would miss.
$(STAMP): $(LOCK) setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup ## start everything, run the main job, show a table and the addresses
	windrow up
	windrow demo

up: setup ## start Airflow, MLflow and Ray on loopback
	windrow up

down: setup ## end them and everything they started
	windrow down

check: setup ## lint, format, types, imports, documentation and its links
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	mkdocs build --quiet

docs: setup ## write the reference again, and build the documentation into build/site
	python -m tests.docs.reference
	mkdocs build --quiet
	@echo build/site/index.html

format: setup ## put the code into its format
	ruff check --fix .
	ruff format .

# In two processes what needs no services, in the order of the files, so that the long ones start early; then one after the
# other what starts Airflow, MLflow and Ray.
test: setup browser ## run the tests, or those that ARGS names
ifdef ARGS
	python -m pytest $(ARGS)
else
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not services and not long and not gpu"
	python -m pytest -m "services and not long and not gpu"
endif

test-long: setup ## run the same properties over many more cases (up to 90 minutes)
	python -m pytest -m long $(ARGS)

test-gpu: setup ## run the tests that need a GPU (3 minutes)
	python -m pytest -m gpu $(ARGS)

# The browser test drives Chromium: Debian's where root may install it, else the one that Playwright brings.
browser: setup
	@test -x /usr/bin/chromium || \
		{ test "$$(id -u)" = 0 && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium; } || \
		playwright install chromium

bench: setup ## measure; see benchmarks/
	python -m benchmarks $(ARGS)

# Packages that come with torch's own build; listing them in the lock would tie it to one build.
NO_EMIT := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
compile = cd requirements && $(UV) pip compile base.in --quiet --override override-$(1).txt --python-version 3.11 \
	--generate-hashes --custom-compile-command "make lock" $(foreach p,$(NO_EMIT),--no-emit-package $(p)) -o $(2)

image = cd requirements && $(UV) pip compile $(1).in --quiet -c lock.txt --python-version 3.11 --generate-hashes \
	--custom-compile-command "make lock" -o lock-$(1).txt

lock: ## pin the versions again after a change of requirements/base.in (needs uv)
	$(call compile,cpu,lock.txt)
	$(call compile,gpu,lock-gpu.txt)
	$(call image,mlflow)
	$(call image,airflow)
