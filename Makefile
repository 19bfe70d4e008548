# Every target does its own set-up: `make demo` and `make test` work on a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
# A training step's buffers go back to the kernel and are faulted in anew, page by page. Kept, and in huge pages, they are
# not: a third of the time of a step on a CPU (docs/results/benchmarks.md). It means nothing to other C libraries.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=100000000000:glibc.malloc.trim_threshold=100000000000:glibc.malloc.top_pad=268435456
# Passed on to the command: make demo ARGS="--task=gsm_symbolic", make test ARGS="tests/decoding -k distribution".
ARGS ?=
# Of `make dryrun`: a gin file, found in gin_configs, and the devices along data and model.
CONFIG ?= experiments/dryrun/t5_xl_small.gin
MESH ?= 4x8
# Of `make paper`: small or full, benchmarks/paper/scales.py.
SCALE ?= small
# A file's tests share compiled functions, so files and not tests are dealt out; compiling keeps one core busy.
WORKERS ?= -n auto --maxprocesses=4 --dist loadfile --no-loadscope-reorder
# Tests that use every dependency and do without the reference implementations.
LOWEST := tests/test_schema.py tests/test_buckets.py tests/test_publications.py tests/test_checkpoint.py tests/data \
  tests/tokenization tests/decoding/test_speculative.py tests/decoding/test_engine.py tests/training tests/reports \
  tests/serving tests/cli/test_generate.py tests/cli/test_main.py
# The interpreter to make .venv with; the first of the usual names that is new enough when empty.
PYTHON ?=

.PHONY: help setup setup-reference lint test test-lowest test-exact test-faults mutants attack dryrun demo zoo bench check-accelerator grid curves paper report notebooks wheel lock clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

# Source distributions in the lock are built by the locked setuptools, not by the newest (--no-build-isolation).
# Errors are printed and `pip check` fails on a hole in the lock; progress and notices are not (-qq).
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
LOCKED := requirements.lock pyproject.toml setup.py

# Python 3.11 before others: the lock was made with it.
define FIND_PYTHON
python="$(PYTHON)"
for name in python3.11 python3 python3.12 python3.13; do
  if [ -z "$$python" ] && $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$$name
  fi
done
if [ -z "$$python" ]; then
  echo "make setup: needs Python 3.11 or newer, found $$(python3 -V 2>&1 || true);" \
    "install one, or name it: make setup PYTHON=/path/to/python3.11" >&2
  exit 2
fi
endef

define CREATE_VENV
$(FIND_PYTHON)
if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then
  echo "make setup: $$python cannot create virtual environments; on Debian: apt-get install python3-venv" >&2
  exit 2
fi
echo "setup: $$(grep -c == requirements.lock) pinned packages into $(VENV), a few minutes the first time"
$$python -m venv $(VENV)
$(PIP) install --no-deps $$(grep -E '^(setuptools|wheel)==' requirements.lock)
$(PIP) install --no-deps --no-build-isolation -r requirements.lock
$(PIP) install --no-deps --no-build-isolation -e .
$(PIP) check
endef

# torch asks for other packages on every platform (CUDA's on Linux), so pip resolves them here, held to the same pins.
define ADD_REFERENCE
echo "setup: the implementations to compare with (torch, transformers) into $(VENV)"
$(PIP) install -c requirements.lock -r requirements-reference.lock
endef

# $(call unless_done,STAMP,FILES,COMMANDS): runs COMMANDS unless STAMP holds the fingerprint of FILES and of this
# folder (a virtual environment does not survive a move). Contents and not times, since a checkout touches every file.
define unless_done
@key="$$( { pwd; cat $(2); } | sha256sum)"
if [ "$$(cat $(VENV)/$(1) 2>/dev/null || true)" != "$$key" ]; then
$(3)
echo "$$key" > $(VENV)/$(1)
fi
endef

.ONESHELL:

setup:  ## create .venv from requirements.lock; at once when nothing changed
	$(call unless_done,.installed,$(LOCKED),$(CREATE_VENV))

setup-reference: setup
	$(call unless_done,.installed-reference,$(LOCKED) requirements-reference.lock,$(ADD_REFERENCE))

lint: setup  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/mypy

test: setup-reference  ## lint, type-check and run the tests (ARGS goes to pytest)
	$(BIN)/ruff check
	$(BIN)/mypy & types=$$!  # on the core that idles while the workers start
	tests=0; JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m pytest $(WORKERS) $(ARGS) || tests=$$?
	wait $$types || { echo "make test: mypy found errors, printed above" >&2; exit 1; }
	exit $$tests

# What the bounds of pyproject.toml promise: releases that old still warn of each other, so warnings are no errors here.
test-lowest:  ## tests on the oldest releases that pyproject.toml allows (needs uv; ARGS: other tests)
	rm -rf .cache/lowest
	uv venv -q --python 3.11 .cache/lowest
	uv pip install -q --python .cache/lowest/bin/python --resolution=lowest-direct '.[test,buckets]'
	JAX_PLATFORMS=cpu PYTHONPATH=$$PWD .cache/lowest/bin/python -m pytest -o filterwarnings= $(or $(ARGS),$(LOWEST))

test-exact: setup  ## every cell of the exactness grid (half an hour)
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m pytest tests/exactness -m "slow or not slow" $(ARGS)

test-faults: setup  ## a training process killed at 20 random moments, compared bit for bit with an uninterrupted one
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m tests.faults $(ARGS)

dryrun: setup  ## CONFIG=FILE.gin MESH=4x8: parameters, FLOPs and bytes a device of a train step, without weights
	$(BIN)/distillspec dryrun --gin_file=$(CONFIG) --mesh=$(MESH) $(ARGS)

attack: setup  ## hostile calls of every command, and processes killed; writes docs/results/attack.md (hours)
	$(BIN)/python -m tests.attack --table=docs/results/attack.md $(ARGS)

mutants: setup  ## known bugs put into a copy, and the tests that go red (ARGS: numbers)
	$(BIN)/python -m tests.mutants $(ARGS)

demo: setup  ## distil a draft, measure it before and after; prints the path of the report
	$(BIN)/distillspec demo $(ARGS)

zoo: setup  ## train the shipped models again (hours; resumes where it stopped)
	$(BIN)/distillspec zoo --build $(ARGS)

bench: setup-reference  ## speed against transformers on the same weights, and costs (ARGS: ids; default all)
	$(BIN)/python -m benchmarks $(ARGS)

check-accelerator: setup  ## on a GPU or a TPU: exactness, greedy texts, losses compared with a CPU's, costs (starts none after 8 minutes)
	$(BIN)/python -m benchmarks.accelerator $(ARGS)

grid: setup  ## divergence × data source, equal time a cell (hours; resumes); benchmarks/grid.py
	$(BIN)/python -m benchmarks.grid $(ARGS)

curves: setup  ## learning curves of data sources, until acceptance stops rising (days; resumes); benchmarks/curves.py
	$(BIN)/python -m benchmarks.curves $(ARGS)

paper: setup  ## the paper's experiments: tables, figures, what held (SCALE=small: about half an hour; full: days; resumes)
	$(BIN)/python -m benchmarks.paper --scale=$(SCALE) $(ARGS)

report: setup  ## tables, plots and one page from runs/*/results.jsonl, or from the files in ARGS
	$(BIN)/distillspec report $(or $(ARGS),$(wildcard runs/*/results.jsonl))

notebooks: setup  ## run the notebooks and store their outputs (ARGS: names; default all)
	JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(BIN)/python -m notebooks.execute $(ARGS)

wheel: setup  ## build dist/distillspec_jax-*.whl
	rm -rf build  # or files deleted since the last build would still travel
	$(PIP) wheel --no-deps --no-build-isolation -w dist .

lock:  ## resolve pyproject.toml anew and rewrite both lock files
	$(FIND_PYTHON)
	rm -rf .cache/lock
	$$python -m venv .cache/lock
	pip=".cache/lock/bin/python -m pip -q"
	freeze="$$pip freeze --all --exclude pip --exclude distillspec_jax"
	$$pip install -U pip setuptools wheel
	$$pip install --no-build-isolation '.[test]'
	$$freeze > .cache/lock/test.txt
	$$pip install --no-build-isolation '.[reference]'
	$$freeze > .cache/lock/all.txt
	{ echo "# What .[test] resolves to; written by 'make lock'."; cat .cache/lock/test.txt; } > requirements.lock
	{ echo "# What .[reference] adds, less what only torch's own platform wheels need; written by 'make lock'."
	  comm -13 <(sort .cache/lock/test.txt) <(sort .cache/lock/all.txt) | sed 's/+cpu$$//' \
	    | grep -vE '^(nvidia-|cuda-|triton)'; } > requirements-reference.lock

clean:  ## remove caches and build outputs (neither .venv nor runs/)
	rm -rf build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
