# make run    the pipeline on a laptop: pre-training, mid-training, SFT, GRPO, evaluation, and a report page
# make test   the tests, and the times of the ten slowest
# make slow   the tests that take minutes each
# make gpu    the tests that need a GPU, and the benches on it
# make memcheck  the tests of the kernels under CUDA's memory checker
# make bench  speed compared with Hugging Face's model and generate, and with TRL
# Each sets up .venv first. To use a Python that has torch already: make run PYTHON=/path/to/python VENV=--system-site-packages
# To use a Python that has everything and install nothing: make gpu PY=python3

PYTHON ?= python3
VENV ?=
PY = .venv/bin/python

SETUP = $(if $(filter .venv/%,$(PY)),.venv/installed-dev)

.PHONY: run test slow bench gpu memcheck

run: .venv/installed
	PYTHON=$(PY) bash recipes/laptop.sh

test: .venv/installed-dev
	$(PY) -m ruff check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal --durations=10

slow: .venv/installed-dev
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal --durations=10 -m slow

bench: .venv/installed-dev
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed trl==1.16.0
	$(PY) bench.py all

gpu: $(SETUP)
	$(PY) -m pytest -m cuda
	$(PY) bench.py probe --device cuda --dtype bfloat16
	for what in kernels exact train sampler; do $(PY) bench.py $$what --device cuda --dtype bfloat16 --rounds 5 || exit; done

memcheck: $(SETUP)
	compute-sanitizer --tool memcheck --error-exitcode 1 $(PY) -m pytest -m cuda tests/kernels/test_triton.py tests/kernels/test_attention.py

.venv/installed: requirements.txt
	$(PYTHON) -m venv $(VENV) .venv
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed -r requirements.txt
	touch $@

.venv/installed-dev: requirements.txt requirements-dev.txt .venv/installed
	$(PY) -m pip install --quiet --upgrade-strategy only-if-needed -r requirements-dev.txt
	touch $@
