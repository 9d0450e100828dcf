# `make validate` is the main job, `make test` runs the tests; each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: validate test test-slow benchmark clean
.DEFAULT_GOAL := validate

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

validate: $(VENV)/installed
	$(BIN)/refnode validate --output report

test: $(VENV)/installed
	$(BIN)/python -c "from refnode.validate import COSTS, compile_drivers; compile_drivers(lambda done, count: None, COSTS)"
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

$(VENV)/peers: $(VENV)/installed validation/performance/requirements.txt
	$(BIN)/python -m pip install --quiet -r validation/performance/requirements.txt
	touch $@

benchmark: $(VENV)/peers
	$(BIN)/python validation/performance/run.py

clean:
	rm -rf $(VENV) build dist *.egg-info report
