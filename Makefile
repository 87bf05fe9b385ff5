# make test   environment, install, the tests: all that a fresh clone needs
# make demo   a real Label Studio with pre-annotated groups; `make demo-stop`, `make demo-clean`
# make check  the tests that need a Label Studio, a browser or a C++ compiler as well, and the model with the oldest
#             transformers
# make lint   ruff and mypy
#
# TORCH is what pip is given for torch. PyPI's torch on Linux is the CUDA build (several GB), so without an NVIDIA card the
# CPU build of PyTorch's own index is taken, if that can be reached. To choose: make TORCH="torch==2.13.0" test

PYTHON ?= python3
VENV   ?= .venv
TORCH_VERSION := torch==2.13.0
TORCH_CPU     := $(TORCH_VERSION) --index-url https://download.pytorch.org/whl/cpu --retries 1 --timeout 20
TORCH  ?= $(if $(shell command -v nvidia-smi),$(TORCH_VERSION),$(TORCH_CPU))
PYTEST_ARGS ?=

BIN   := $(VENV)/bin
READY := $(VENV)/.installed
PIP   := $(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet,)

.PHONY: help install test check check-sdk check-oldest check-compiler lint demo demo-stop demo-clean clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

install: $(READY)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, got %d.%d; try: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

# torch first and by itself, so that its index does not serve the other packages.
$(VENV)/.torch: | $(BIN)/python
	@echo 'Installing torch (200 MB, or several GB with CUDA), then the rest (1 GB in all without CUDA): some minutes.'
	$(PIP) $(TORCH) || $(PIP) $(TORCH_VERSION)
	@touch $@

$(READY): pyproject.toml $(VENV)/.torch
	$(PIP) -e '.[test]'
	@touch $@

test: $(READY)
	$(BIN)/python -m pytest -m 'not host and not browser and not postgres and not ray and not abuse' $(PYTEST_ARGS)

check: $(READY)
	-$(BIN)/calico demo --install
	CALICO_REQUIRE="$(CALICO_REQUIRE),abuse" CALICO_FUZZ_SECONDS=60 $(BIN)/python -m pytest $(PYTEST_ARGS)
	$(MAKE) check-sdk
	$(MAKE) check-oldest
	$(MAKE) check-compiler

# Our codecs against label-studio-sdk, in Label Studio's environment: the sdk's pins would move ours.
SDK_PYTHON := .demo/label-studio-venv/bin/python
check-sdk:
	@test -x $(SDK_PYTHON) || { echo "no $(SDK_PYTHON); calico demo --install makes it"; exit 1; }
	$(SDK_PYTHON) -m pip install --quiet --disable-pip-version-check pytest hypothesis pycocotools
	$(SDK_PYTHON) -m pytest -p no:cacheprovider tests/test_brush_rle.py tests/test_prediction_codec.py tests/test_config_codec.py

# The model with the oldest transformers that pyproject.toml allows and the hub's package that it asks for, laid over the
# environment.
OLDEST := $(VENV)/oldest
check-oldest: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(OLDEST) \
		"$$(sed -n 's/.*"\(transformers\)>=\([0-9.]*\).*",/\1==\2/p' pyproject.toml)" 'huggingface-hub<2'
	PYTHONPATH=$(OLDEST) $(BIN)/python -m pytest -p no:cacheprovider tests/test_model.py \
		tests/test_weights.py tests/test_memory.py tests/test_qlora.py tests/test_segmenter.py tests/test_formulas.py

# Decode steps through torch's own compiler, which writes and compiles C++: a minute.
check-compiler: $(READY)
	CALICO_REQUIRE=compiler $(BIN)/python -m pytest -p no:cacheprovider tests/test_serving.py -k compiled

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy

demo: $(READY)
	@$(BIN)/calico demo

demo-stop:
	@test ! -x $(BIN)/calico || $(BIN)/calico demo --stop

demo-clean:
	@test ! -x $(BIN)/calico || $(BIN)/calico demo --clean

clean: demo-clean
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
