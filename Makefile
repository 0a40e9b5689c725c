# `make demo` and `make test` need only Python (3.11 or later) and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# Many processes import the libraries: what one has compiled is there for the others.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test lint format notebooks clean
demo: .venv/ready
	$(BIN)/python train.py --config=configs/digits_vit.py --workdir=runs/demo
	$(BIN)/python eval.py --workdir=runs/demo

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/ready
	$(BIN)/python scripts/run_notebooks.py

clean:
	rm -rf .venv

# uv installs in seconds what takes pip a minute. Where it cannot be had, or does not know of pip's index, pip does it.
.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	{ $(PIP) install uv && $(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements-dev.txt; } \
	  || $(PIP) install --no-compile -r requirements-dev.txt
	touch $@
