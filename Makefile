# Two commands set everything up on a machine with Python 3.10+ and make:
#   make demo    index sample photographs with the embedded model and ask a few questions
#   make test    run the tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Tests run in as many processes as there are processors.
PYTEST_ARGS ?= -n auto
# A worker for each core, so one thread in each: numerical libraries whose threads wait for a core spin, and take the
# time of the others.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_ARGS)
# Tests start Python hundreds of times. Where it is told to keep no bytecode, it would compile all modules each time.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast test-export lint types imports audit check format bench constraints build clean

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "bowerbird needs Python 3.10 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(PIP) -e '.[demo]'
	@touch $@

# Gradio asks for a Pillow below 13, which resizes some pixels by one step otherwise than the one that the reference arrays
# were made with. What the page asks of it is in both.
$(VENV)/.dev: $(BIN)/python pyproject.toml
	$(PIP) -e '.[dev]'
	$(PIP) --no-deps 'pillow>=13'
	@touch $@ $(VENV)/.demo

# What `bowerbird export` needs. The version pinned first is one whose CPU build is small where an index offers one.
$(VENV)/.export: $(VENV)/.dev
	$(PIP) torch==2.13.0
	$(PIP) -e '.[train]'
	@touch $@

demo: $(VENV)/.demo ## index sample photographs, ask questions, write demo-out/contact-sheet.html
	$(BIN)/bowerbird demo --out demo-out

test: $(VENV)/.dev ## run all tests
	$(PYTEST)

test-fast: $(VENV)/.dev ## run the tests that take less than about five seconds each
	$(PYTEST) -m 'not slow'

test-export: $(VENV)/.export ## run all tests, those of exporting from PyTorch included
	$(PYTEST)

lint: $(VENV)/.dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy --strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## who may import whom
	$(BIN)/lint-imports

audit: $(VENV)/.dev ## known vulnerabilities of what is installed; says so where no source of advisories is reached
	$(BIN)/python tools/audit.py

check: lint types imports test ## everything CI checks

format: $(VENV)/.dev ## let ruff format and fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## all benchmarks, with their peers in environments of their own (takes an hour)
	$(BIN)/python -m benchmarks

constraints: $(BIN)/python ## deploy/constraints.txt anew: the versions that the image is built with
	$(BIN)/python tools/make_constraints.py

build: $(VENV)/.dev ## wheel and sdist in dist/
	$(PIP) build
	$(BIN)/python -m build

clean: ## remove what was built, the environment included
	rm -rf $(VENV) dist build demo-out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
