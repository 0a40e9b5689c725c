# `make demo` and `make test` need only Python (3.11 or later) and make.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format notebooks clean
demo: .venv/ready
	$(BIN)/python train.py --config=configs/digits_vit.py --workdir=runs/demo
	$(BIN)/python eval.py --workdir=runs/demo

# Many processes import the package: what one has compiled is there for the others.
test: export PYTHONDONTWRITEBYTECODE =
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

# pip would compile what it installs on one core, tests of the libraries included.
.venv/ready: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -r requirements-dev.txt
	-$(BIN)/python -m compileall -qq -j 0 -x '/tests?/' .venv/lib
	touch $@
