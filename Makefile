# `make search` does the main job on the bundled digits; `make test` runs the checks and a sample of the slow tests.
# Both make their own virtual environment first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNS := runs/digits
CODE := nas_osr search_spaces strategies retrain tests

.DEFAULT_GOAL := help
.PHONY: help install search test test-all fuzz lint format docs dist clean

help:
	@echo "make search    search, export, retrain and evaluate on the bundled digits (minutes)"
	@echo "make test      static checks and the tests, without the slow ones"
	@echo "make test-all  every test"
	@echo "make fuzz      ten thousand broken files (minutes)"
	@echo "make lint      static checks only"
	@echo "make format    format the code"
	@echo "make docs      build the documentation into site/, without a network"
	@echo "make dist      build wheel and source archive into dist/, and check them"
	@echo "make clean     remove caches and $(RUNS); the virtual environment stays"

install: $(STAMP)

$(STAMP): setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "nas-osr needs Python 3.10 or newer: make PYTHON=python3.11 ..." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,analysis]'
	@touch $@

search: $(STAMP)
	$(BIN)/nas-osr search --protocol digits --split 0 --preset tiny --seed 0 --out $(RUNS)/search --overwrite
	$(BIN)/nas-osr export $(RUNS)/search --format svg,png,gv,graphml,json --out $(RUNS)/architecture
	$(BIN)/nas-osr retrain $(RUNS)/search --splits 0-1 --out $(RUNS)/retrain --overwrite
	$(BIN)/nas-osr evaluate $(RUNS)/retrain

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 -q -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n 2 -q

fuzz: $(STAMP)
	$(BIN)/python -m pytest -n 2 -q tests/fuzz --hypothesis-profile=fuzz

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	rm -rf dist build
	mkdir dist
	$(BIN)/python -c "from setuptools import build_meta as backend; backend.build_sdist('dist'); backend.build_wheel('dist')"
	$(BIN)/python -m twine check --strict dist/*

clean:
	rm -rf $(RUNS) site dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
