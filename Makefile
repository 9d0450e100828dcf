# `make validate` is the main job, `make test` runs the tests; each makes the environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: validate test test-slow test-peers test-gpu conform benchmark guard clean
.DEFAULT_GOAL := validate

$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

validate: $(VENV)/installed
	$(BIN)/refnode validate --output report

test: $(VENV)/installed
	$(BIN)/python -c "from refnode.drivers import compile_all; compile_all()"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not peers and not alone and not gpu"
	$(BIN)/python -m pytest -m alone

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -m slow

$(VENV)/cuda: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable ".[test,cuda13]"
	touch $@

test-gpu: $(VENV)/cuda
	$(BIN)/python validation/cuda/hardware.py

$(VENV)/peers: $(VENV)/installed validation/performance/requirements.txt
	$(BIN)/python -m pip install --quiet -r validation/performance/requirements.txt
	touch $@

test-peers: $(VENV)/peers
	$(BIN)/python -m pytest -m peers

# The columns of the committed matrix; every way and method of every library (no --ways) takes far longer.
WAYS = torchdiffeq:*,diffrax:RecursiveCheckpoint:Dopri5,diffrax:Backsolve:Dopri5,diffrax:Event:*,torchode:AutoDiff*,torchode:Backsolve:*,casadi:*,autograd:*,scipy:*,refnode:*

conform: $(VENV)/peers
	$(BIN)/refnode conform torchdiffeq diffrax torchode casadi autograd scipy refnode --ways '$(WAYS)' \
		--matrix validation/results/conformance.html --matrix validation/results/conformance.md --matrix validation/results/conformance.json

benchmark: $(VENV)/peers
	$(BIN)/python validation/performance/run.py
	$(BIN)/python validation/performance/growth.py
	$(BIN)/python validation/performance/start_up.py

guard: $(VENV)/installed
	$(BIN)/python -m pytest tests/test_performance_guard.py

clean:
	rm -rf $(VENV) build dist *.egg-info report
