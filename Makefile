# make run    the whole pipeline on a laptop: tokenizer, pre-training, mid-training, evaluation, one answer
# make test   all tests
# make bench  speed against Hugging Face's model and generate, side by side
# Each sets up .venv first. To use a Python that has torch already: make run PYTHON=/path/to/python VENV=--system-site-packages

PYTHON ?= python3
VENV ?=
PY = .venv/bin/python

.PHONY: run test bench gpu

run: .venv/installed
	PYTHON=$(PY) bash recipes/laptop.sh

test: .venv/installed-dev
	$(PY) -m ruff check .
	$(PY) -m pytest

bench: .venv/installed-dev
	$(PY) bench.py all

gpu: .venv/installed-dev
	$(PY) -m pytest -m cuda
	$(PY) bench.py all --device cuda

.venv/installed: requirements.txt
	$(PYTHON) -m venv $(VENV) .venv
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt .venv/installed
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed -r requirements-dev.txt
	touch $@
