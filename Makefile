# make setup: .venv with the `saccade` command. make demo: train a picture model and a prompt writer. make test: the tests.
# make lint: ruff and the type checker. make docs: the pages of docs/ and the reference as a site, in site/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready

.PHONY: setup demo lint test docs clean

setup: $(STAMP)

# torch comes through pip, which follows the machine's own pip settings (a CPU index, local wheels); uv does the rest.
$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "saccade needs Python 3.11 or newer; try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt uv torch
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,report]'
	@touch $(STAMP)

demo: setup
	$(BIN)/saccade train promptrl

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[docs]'
	$(BIN)/zensical build --clean --strict

clean:
	rm -rf $(VENV) runs site
