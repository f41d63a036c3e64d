# make demo   set up, then the whole pipeline on the built-in data
# make test   set up, then all tests
# Both can be repeated; neither needs root. After the first set-up nothing needs a network.
PYTHON ?= python3
# What to install torch from: empty = the package index pip knows (on Linux the CUDA build); see README for a CPU build.
TORCH ?= torch==2.13.0
BIN := .venv/bin
# How many processes: tests/conftest.py. A file's tests stay in one process: they share what they made.
PYTEST := python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
export MLFLOW_DISABLE_TELEMETRY := true
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test quick long lint lock scm data bench clean

demo: .venv/ready scm data
	dvc repro
	@python src/where.py --dataset demo

test: .venv/ready lint
	$(PYTEST) -m "not long"

quick: .venv/ready
	$(PYTEST) -m "not slow and not long"

# What takes minutes and makes pictures: run it where docs/comparing.md, MLflow's views or compare.py are changed.
long: .venv/ready
	$(PYTEST) -m long

lint: .venv/ready
	ruff check . && ruff format --check . && mypy && python .ci/lock.py check

# requirements.lock from pyproject.toml. Versions that still fit are kept; `make lock UPGRADE=1` takes the newest.
lock: .venv/ready
	python .ci/lock.py write $(if $(UPGRADE),--upgrade)

# A folder without git (a downloaded zip): DVC is told so; `dvc exp` and `dvc metrics diff` need `git init` first.
scm: .venv/ready
	@if [ -e .git ]; then ! grep -qs no_scm .dvc/config.local || dvc config --local --unset core.no_scm; \
	  else grep -qs no_scm .dvc/config.local || dvc config --local core.no_scm true; fi

data: .venv/ready
	python src/make_data.py

bench: .venv/ready
	python bench/run.py --size paper
	python bench/run.py --size demo

# torch first: whatever depends on it then finds it there. The stamp holds the lock it was made from.
.venv/ready: requirements.lock
	@cmp -s requirements.lock .venv/ready || { \
	  set -e; test -x $(BIN)/python || $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH); \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock; }
	@cp requirements.lock .venv/ready

clean:
	rm -rf .venv out .pytest_cache .mypy_cache .ruff_cache
