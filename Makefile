# `make demo` and `make test` need Python 3.11 or newer with pip; both make the virtual environment .venv once.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=

VENV := .venv
OLDEST := .venv-oldest
DEEPSPEED := .venv-deepspeed
OPTIMUM := .venv-optimum
PINS := requirements/torch.txt requirements/pinned.txt setup.cfg setup.py
RUFF := $(VENV)/bin/ruff
# Those that need no data; prune_once_for_all.py is told on its command line where to find some.
BENCHMARKS ?= benchmarks/mask_update.py benchmarks/training_overhead.py

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest test-deepspeed test-optimum test-transformers lint format bench soak readme clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## run the main job; pass options with ARGS="--seed 1"
	$(VENV)/bin/hf-sparse demo $(ARGS)

test: $(VENV)/installed  ## run the tests; pass options with ARGS="-k masks", processes with JOBS=4
	$(VENV)/bin/python -m pytest -n $(JOBS) $(ARGS)

test-oldest: $(OLDEST)/installed  ## run the tests on the oldest supported transformers
	$(OLDEST)/bin/python -m pytest -n $(JOBS) -p no:cacheprovider $(ARGS)

test-deepspeed: $(DEEPSPEED)/with-deepspeed  ## run the tests under DeepSpeed, which compiles C++ when it is first used
	DS_ACCELERATOR=cpu $(DEEPSPEED)/bin/python -m pytest -p no:cacheprovider tests/integration/test_deepspeed.py tests/integration/test_deepspeed_runs.py $(ARGS)

test-optimum: $(VENV)/installed $(OPTIMUM)/ready  ## load exported directories by optimum, with the older transformers that it needs
	rm -rf $(OPTIMUM)/exported
	$(VENV)/bin/python -m tests.integration.optimum_reads write $(OPTIMUM)/exported
	$(OPTIMUM)/bin/python tests/integration/optimum_reads.py read $(OPTIMUM)/exported

test-transformers: $(VENV)/installed  ## run transformers' own tests of Trainer with ours in its place: CHECKOUT=../transformers
	$(VENV)/bin/python tests/integration/transformers_tests.py $(CHECKOUT) $(ARGS)

lint: $(VENV)/installed  ## check style, layout and types
	$(RUFF) check .
	$(RUFF) format --check .
	$(VENV)/bin/mypy

format: $(VENV)/installed  ## rewrite the code in the project's layout
	$(RUFF) check --fix .
	$(RUFF) format .

bench: $(VENV)/benchable  ## measure again what docs/results.md shows; choose with BENCHMARKS="benchmarks/NAME.py"
	for script in $(BENCHMARKS); do $(VENV)/bin/python $$script $(ARGS) || exit 1; done
	$(MAKE) readme

soak: $(VENV)/installed  ## kill and resume a run of 2,000 steps on 2 processes again and again, and compare
	$(VENV)/bin/python benchmarks/soak.py $(ARGS)
	$(MAKE) readme

readme: $(VENV)/installed  ## write the measured tables and that of architectures into README.md and docs/
	$(VENV)/bin/python -m benchmarks.readme
	$(VENV)/bin/python -m tests.support.zoo_table

clean:  ## remove what the other targets have made
	rm -rf $(VENV) $(OLDEST) $(DEEPSPEED) $(OPTIMUM) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis hf_sparse_demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each step may be interrupted: the stamp `installed` comes last, and pip continues with what is missing.
%/installed: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12")'
	@$*/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $*
	@echo "Installing pinned packages into $* (once; torch alone is about 200 MB)"
	@$*/bin/python -m pip install -q -c requirements/pinned.txt -r requirements/torch.txt
	@$*/bin/python -m pip install -q --no-deps -r requirements/pinned.txt
	@$(if $(LAID_OVER),$*/bin/python -m pip install -q --no-deps -r $(LAID_OVER))
	@$*/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch $@

$(OLDEST)/installed: LAID_OVER := requirements/oldest.txt
$(OLDEST)/installed: requirements/oldest.txt

$(DEEPSPEED)/with-deepspeed: requirements/deepspeed.txt $(DEEPSPEED)/installed
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(DEEPSPEED)/bin/python -m pip install -q --no-deps --no-build-isolation -r requirements/deepspeed.txt
	@touch $@

# Without hf_sparse: only optimum reads there.
$(OPTIMUM)/ready: requirements/optimum.txt requirements/torch.txt
	@$(OPTIMUM)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(OPTIMUM)
	$(OPTIMUM)/bin/python -m pip install -q -c requirements/optimum.txt -r requirements/torch.txt
	$(OPTIMUM)/bin/python -m pip install -q --no-deps -r requirements/optimum.txt
	@touch $@

$(VENV)/benchable: requirements/bench.txt $(VENV)/installed
	$(VENV)/bin/python -m pip install -q --no-deps -r requirements/bench.txt
	@touch $@
