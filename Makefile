# Every command that runs is printed, so that it can be run by hand as well.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

TESTS := -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

.PHONY: help install torch demo test test-tpu test-torch coverage lint docs clean

help:
	@echo "make demo      fetch aerial trees, draw what a trained GFL detects, train another (about 10 minutes on 2 cores)"
	@echo "make test      run the whole test suite (about 12 minutes on 2 cores)"
	@echo "make lint      run ruff and mypy"
	@echo "make install   create $(VENV) with all requirements; the other targets do this too"
	@echo "make torch     add PyTorch to $(VENV); only test-torch needs it"
	@echo "make test-tpu  run the tests that compile for a TPU; they download its compiler (137 MB) and need no TPU"
	@echo "make test-torch  run the tests that need PyTorch"
	@echo "make docs      build the documentation in site/; $(VENV)/bin/mkdocs serve shows it while you write"
	@echo "make coverage  run the whole suite and print the lines that it does not reach (a sixth slower)"
	@echo "make clean     delete $(VENV) and site/, but not data/ and runs/"

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

docs: install
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) site
