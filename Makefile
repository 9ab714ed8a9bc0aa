# ScoreFusion on a fresh machine: `make demo` and `make test` need Python 3.10-3.13 with pip, nothing else.
# Everything goes into .venv and demo-output; `make clean` takes it away again.

PYTHON ?= python3
# One fixed version, so that pip takes it as it is where a CPU build is at hand and never exchanges it afterwards.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
OUTPUT := demo-output
# For example --quick: a small block of the head instead of the whole.
DEMO_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint clean

help:
	@echo "make demo       install, sharpen a real head, print where the pictures are"
	@echo "make test       install, then lint, types and the whole test suite"
	@echo "make test-fast  the same without the slow tests"
	@echo "make lint       ruff and mypy only"
	@echo "make clean      remove what these made"

demo: $(DONE)/demo
	@$(BIN)/python -m scorefusion.evaluation.demo --output $(OUTPUT) $(DEMO_OPTIONS)
	@echo "The pictures are in $(CURDIR)/$(OUTPUT)"

# A file of tests is one core's work. The module's tests run in processes of their own, as the module does.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile
ENGINE := Testing/engine Testing/corpus
CLICK := Testing/host_module/test_clickthrough.py
MODULE := Testing/host Testing/host_module Testing/in_slicer Testing/mrml --ignore=$(CLICK)

test: lint $(DONE)/system
	@$(PYTEST) -m "" $(ENGINE)
	@$(PYTEST) -m "" $(MODULE)
	@$(BIN)/python -m pytest -m "" $(CLICK) # alone: tests of the installer exchange torch, and it needs the real one

test-fast: lint $(DONE)/system
	@$(PYTEST) $(ENGINE)
	@$(PYTEST) $(MODULE)
	@$(BIN)/python -m pytest $(CLICK)

lint: $(DONE)/test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) $(OUTPUT) .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Installation, in steps that are not repeated. torch comes first and alone: with it in place, nothing that follows pulls
# another build of it.

$(DONE)/venv:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else \
	  "ScoreFusion needs Python 3.10 to 3.13, this is %d.%d. Choose one: make PYTHON=python3.12 ..." % v)'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  $(PYTHON) -m pip install -qq --disable-pip-version-check virtualenv && $(PYTHON) -m virtualenv -q $(VENV); }
	@mkdir -p $(DONE) && touch $@

$(DONE)/torch: $(DONE)/venv
	@echo "Installing PyTorch into $(VENV) (a large download, once) ..."
	@$(PIP) "$(TORCH)"
	@touch $@

$(DONE)/demo: $(DONE)/torch pyproject.toml
	@echo "Installing ScoreFusion into $(VENV) ..."
	@$(PIP) --editable ".[demo]"
	@touch $@

$(DONE)/test: $(DONE)/torch pyproject.toml
	@echo "Installing ScoreFusion and the tools for its tests into $(VENV) ..."
	@$(PIP) --editable ".[test,demo,train]"
	@touch $@ $(DONE)/demo

$(DONE)/system: $(DONE)/test
	@bash Testing/system_libraries.sh
	@touch $@
