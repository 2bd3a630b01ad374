# Everything runs in .venv, which each target makes as needed. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
VENV ?= .venv
# TEST_EXTRAS=test,cuda adds the tests of machine code for NVIDIA GPUs, which need no GPU.
TEST_EXTRAS ?= test

BIN := $(VENV)/bin
MADE := $(VENV)/.made-$(subst /,_,$(PYTHON))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# One BLAS thread a worker: teams of them would wait for each other.
PYTEST := OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-gpu docs lint types clean

help: ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.demo ## compile a digit classifier, show what each pass did, time fused against unfused
	@$(BIN)/convc demo

test: $(VENV)/.test ## run the tests, without the slow sweeps
	@$(PYTEST)

test-all: $(VENV)/.test ## run every test
	@$(PYTEST) --slow

docs: $(VENV)/.docs ## build the site into build/docs; a warning is an error
	@$(BIN)/python -m sphinx -b html -E -a -W --keep-going -q -d build/doctrees docs build/docs
	@echo "build/docs/index.html"

test-gpu: $(VENV)/.gpu ## run the tests that need a GPU, one at a time; without one they are skipped, with the reason
	@OPENBLAS_NUM_THREADS=8 $(BIN)/python -m pytest tests/gpu -rs -s

lint: $(VENV)/.lint types ## ruff, and mypy in strict mode
	@$(BIN)/ruff check .

# mypy finds packages by folder, so the package-dir map of pyproject.toml is laid out once more as links under .mypy/.
types: $(VENV)/.lint
	@rm -rf .mypy && mkdir -p .mypy/convc
	@cd .mypy/convc && ln -s ../../convc/* ../../passes ../../backends .
	@cd .mypy && $(abspath $(BIN))/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p convc

clean: ## remove the environment and every cache
	rm -rf $(VENV) .mypy .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist docs/generated convc.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "convc needs Python 3.10 or newer; choose one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "$(PYTHON) has no venv and ensurepip; install them (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.demo: pyproject.toml $(MADE)
	@echo "installing convc into $(VENV)"
	@$(PIP) -e . && touch $@

$(VENV)/.test: pyproject.toml $(MADE)
	@echo "installing convc and its test requirements into $(VENV)"
	@$(PIP) -e '.[$(TEST_EXTRAS)]' && touch $@

$(VENV)/.docs: pyproject.toml $(MADE)
	@echo "installing convc and what builds the site into $(VENV)"
	@$(PIP) -e '.[docs]' && touch $@

$(VENV)/.gpu: pyproject.toml $(MADE)
	@echo "installing convc, its test requirements and the cuda extra into $(VENV)"
	@$(PIP) -e '.[test,cuda]' && touch $@

$(VENV)/.lint: pyproject.toml $(MADE)
	@echo "installing convc and its lint requirements into $(VENV)"
	@$(PIP) -e '.[lint,image]' && touch $@
