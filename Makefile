# One command each: `make demo` shows what atomml does, `make test` checks it. Both set everything up in .venv.
PYTHON ?= python3
BIN := .venv/bin
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint clean

demo: .venv/.installed
	$(BIN)/atomml demo --out demo

test: .venv/.installed
	$(BIN)/pytest -n 2

lint: .venv/.installed
	$(BIN)/ruff format --check . && $(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell atomml docs tests examples data train *.md

.venv/.installed: pyproject.toml setup.py requirements/cpu.txt $(wildcard atomml/kernels/cpu/src/*)
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "atomml needs Python 3.11: make PYTHON=python3.11"'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint requirements/cpu.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
