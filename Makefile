# make demo: the main job on built-in data.  make test: set up, then the fast tests.  All targets: make help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROBLEM ?= classification
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help setup demo test slow check format docs stack bench gpu lock clean

help:
	@echo "make setup   set up .venv and install everything"
	@echo "make demo    adapt, evaluate, register and promote a model on built-in data"
	@echo "make test    the fast tests"
	@echo "make slow    the tests on real data (SFDA_DATA=folder)"
	@echo "make check   ruff, ruff format, mypy, lint-imports, pip-audit"
	@echo "make docs    the pages of docs/, in build/docs"
	@echo "make stack   PostgreSQL, S3, Prefect, MLflow and a worker, natively (STACK='--workers 2 --jobs jobs.yaml')"
	@echo "make bench   benchmarks on real data (SFDA_DATA=folder), in bench/"
	@echo "make gpu     benchmarks on a GPU, 8 minutes, nothing fetched, in bench/gpu.json"
	@echo "make format  let ruff rewrite what it can"
	@echo "make lock    resolve requirements.lock anew"
	@echo "make clean   remove what was built"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock build-constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: call make PYTHON=/path/to/a/newer/python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	  --build-constraints build-constraints.txt -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $@

demo: setup
	$(BIN)/sfda demo --problem $(PROBLEM)

test: setup
	@$(BIN)/python -m compileall -q sfda tasks flows # else some sixty processes compile them, each for itself
	$(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

slow: setup
	$(BIN)/python -m pytest -m "slow or gpu"

check: setup
	$(BIN)/ruff check --no-cache
	$(BIN)/ruff format --no-cache --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python infra/audit.py

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup
	$(BIN)/python -m tests.docs.tables --write
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --builder html docs build/docs
	@echo "open build/docs/index.html"

stack: setup
	PYTHONPATH=$(CURDIR) $(BIN)/python infra/stack.py $(STACK)

bench: setup
	$(BIN)/python -m tests.bench

gpu: setup
	$(BIN)/python -m tests.bench.gpu

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra stack --universal --python-version 3.11 --upgrade \
	  --build-constraints build-constraints.txt --no-emit-index-url --no-header --no-annotate \
	  --quiet --output-file requirements.lock

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
