# Everything a contributor runs; `make check test` is what continuous integration runs.
# A machine that should not fetch CUDA libraries: make PIP_FLAGS="--extra-index-url URL-OF-CPU-TORCH-WHEELS" venv
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check bench venv engines format clean

demo: $(VENV)/.export  ## export the committed voices, verify, speak, profile; one table
	$(BIN)/sottovoce demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## every benchmark; each prints its gates and fails where one is missed
	$(BIN)/python -m benchmarks

venv: $(VENV)/.dev

engines: .venv-ort121/.made .venv-ort122/.made .venv-openvino/.made  ## other engines, for the tests of what runs there

.venv-ort121/.made: PACKAGES = "onnxruntime==1.21.*" soundfile
.venv-ort122/.made: PACKAGES = "onnxruntime==1.22.*" soundfile
.venv-openvino/.made: PACKAGES = openvino numpy
.venv-%/.made:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet $(PIP_FLAGS) $(PACKAGES)
	touch $@

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1"

# What the demo needs: enough to export, speak and profile.
$(VENV)/.export: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[export,audio]"
	touch $@

# All extras, test and lint tools.
$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet $(PIP_FLAGS) --constraint constraints.txt --editable ".[all]" --group dev
	touch $@

clean:
	rm -rf build dist demo *.egg-info .mypy_cache .ruff_cache .pytest_cache
