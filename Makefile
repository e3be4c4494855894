# make demo: see it work, first with the released model, then with one trained anew. make test: the tests.
# Both install what they need into .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test lint clean

demo: $(VENV)/.demo
	$(RUN) -m imagen_jax.main --config=experiments/stage2.py --mode=sample --config.sample.run=released
	$(RUN) -m imagen_jax.main --config=experiments/stage2.py

test: $(VENV)/.test lint
	$(RUN) -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile tests

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.demo: setup.py
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[data,test]'
	touch $@

clean:
	rm -rf $(VENV) runs
