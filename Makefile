# Every command that runs is printed, so that it can be run by hand as well.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

TESTS := -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help install torch demo test test-tpu test-torch coverage lint clean

help:
	@echo "make demo      fetch aerial trees, draw what a trained GFL finds, train another (about 10 minutes on 2 cores)"
	@echo "make test      run the whole test suite (about 9 minutes on 2 cores)"
	@echo "make lint      run ruff and mypy"
	@echo "make install   make $(VENV) with all requirements; demo, test and lint do it too"
	@echo "make torch     add PyTorch to $(VENV), which is needed to compare with it alone"
	@echo "make test-tpu  run the tests that compile for a TPU, which need no TPU but its compiler (137 MB)"
	@echo "make test-torch  run the tests that need PyTorch"
	@echo "make coverage  the whole suite once more, with the lines that it reaches (a sixth slower)"
	@echo "make clean     delete $(VENV); data/ and runs/ stay"

install: $(VENV)/installed

$(VENV)/installed: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

torch: install
	$(RUN) -m pip install --quiet --disable-pip-version-check torch==2.13.0

demo: install
	$(RUN) scripts/demo.py

test: install
	$(RUN) $(TESTS)

# Beside the packages: with libtpu among them jax would look for a TPU.
$(VENV)/tpu/installed: install
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --target $(VENV)/tpu libtpu==0.0.42.*
	touch $@

test-tpu: $(VENV)/tpu/installed
	TPU_LIBRARY_PATH=$(VENV)/tpu/libtpu/libtpu.so $(RUN) -m pytest tests/compilation

test-torch: torch
	$(RUN) -m pytest tests/interop

coverage: install
	$(RUN) $(TESTS) --cov --cov-fail-under=90

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV)
