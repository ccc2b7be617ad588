# `make` alone lists the targets. Every one that needs the virtual environment makes it.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Tests at once. Many wait for processes and deadlines: on two cores three are faster than two (`make test` 514 s for 617).
WORKERS ?= 3
# Where torch comes from, for a machine without a GPU https://download.pytorch.org/whl/cpu; empty: where all the rest does,
# which on Linux means CUDA and several GB.
TORCH_INDEX ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-observability test-deployment test-compose lint format pages soak benchmark-merge lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install what requirements.lock pins

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@echo "installing what requirements.lock pins into .venv: some minutes, without further word unless something is wrong"
	$(if $(TORCH_INDEX),$(BIN)/python -m pip install --quiet --disable-pip-version-check --index-url "$(TORCH_INDEX)" "$$(grep '^torch==' requirements.lock)")
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: $(STAMP) ## run a federation of two sites on this machine and show what the merge is worth
	$(BIN)/fedrebasin demo

test: $(STAMP) ## run every test that needs no server and no container engine
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder \
		--ignore tests/observability --ignore tests/deployment --ignore tests/compose

test-observability: $(STAMP) ## rules, dashboards and report, with a real Prometheus and Chromium (Debian's packages)
	scripts/debian.sh prometheus chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder tests/observability

test-deployment: $(STAMP) ## real SuperLink, nginx and sites on this machine's loopback, and what happens when they die
	scripts/debian.sh nginx-light faketime
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadscope --no-loadscope-reorder tests/deployment $(ARGS)

test-compose: $(STAMP) ## compose.yml on a real container engine, from the build to the merged network; skips where none answers
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/compose $(ARGS)

lint: $(STAMP) ## ruff, ruff format and pyright, as CI runs them
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m scripts.pages --check

format: $(STAMP) ## let ruff put things right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

pages: $(STAMP) ## write the pages that are made from the code, and those of the benchmark's tables
	$(BIN)/python -m scripts.pages
	$(BIN)/python -m benchmarks.merging.pages

soak: $(STAMP) ## a thousand sites for ten minutes: is memory flat, is every refusal accounted for?
	$(BIN)/python -m benchmarks.soak --minutes 10

benchmark-merge: $(STAMP) ## every way of merging, in real Flower runs (hours; with CIFAR10=FOLDER also on CIFAR-10)
	$(if $(CIFAR10),$(BIN)/python -m benchmarks.merging.trainings --seeds 3 --cifar10 "$(CIFAR10)")
	$(BIN)/python -m benchmarks.merging.quality --seeds 3 --record $(if $(CIFAR10),--cifar10 "$(CIFAR10)")
	$(BIN)/python -m benchmarks.merging.pages
	$(BIN)/python -m benchmarks.merging.figure

lock: ## pin the newest versions that pyproject.toml admits
	$(PYTHON) scripts/lock.py $(ARGS)

clean: ## remove the virtual environment and caches; runs stay
	rm -rf .venv .pytest_cache .ruff_cache .hypothesis
