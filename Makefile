# The two commands: `make book` and `make test`. Both make the environment first when it is missing or old.

PYTHON ?= python3
SIZE ?= laptop
JOBS ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an interrupted installation does not count as one.
READY := $(VENV)/.ready
CHAPTERS = $(wildcard book/*.ipynb)
# The book that the tests read, beside the one of `make book`.
TESTED := _build/test
# One more than there are cores, since pages and tests wait for kernels, processes and the browser; not so many
# that their memory would not fit.
AT_ONCE = $(shell $(BIN)/python -c 'import loky; print(min(loky.cpu_count() + 1, 5))')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book quick published runs check-published metadata test test-all test-book lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "After make book, one chapter with other settings, here Figures 10 and 11 of the paper in a smaller run:"
	@echo "  .venv/bin/papermill book/06-outliers.ipynb out.ipynb -p experiment mnist-lr3 \\"
	@echo "      -p other mnist-lr4 -p num_images 6000 -p epochs 25 -p score_every 25 \\"
	@echo "      -p folds 5 -p repeats 2 -p num_samples 64"
	@echo
	@echo "PYTHON=... chooses the interpreter (at least 3.11), JOBS=... how many pages are executed at a time,"
	@echo "SIZE=quick|laptop|paper the size of the book."

book: $(READY)  ## train, execute every chapter (SIZE=laptop), build the book in _build/html
	$(BIN)/python -m book._ext.build --size $(SIZE) $(if $(JOBS),--jobs $(JOBS))

quick: $(READY)  ## the same book at its smallest size
	$(BIN)/python -m book._ext.build --size quick $(if $(JOBS),--jobs $(JOBS))

published: $(READY)  ## execute the pages too large for a laptop into published/book/, and describe published/ anew
	$(BIN)/python -m book._ext.build --size published $(if $(JOBS),--jobs $(JOBS))
	$(BIN)/python -m book._ext.describe

runs: $(READY)  ## compute what is missing of published/runs/, days at the lowest priority (JOBS: cores to use)
	nice -n 19 $(BIN)/python -m book._ext.runs $(if $(JOBS),--jobs $(JOBS))
	$(BIN)/python -m book._ext.describe

check-published: $(READY)  ## compute the numbers of published pages anew from published/runs/, and compare
	$(BIN)/python -m book._ext.check $(if $(JOBS),--jobs $(JOBS))

metadata: $(READY)  ## describe published/ anew (RO-Crate, Croissant), as after released files changed
	$(BIN)/python -m book._ext.describe

test: test-book  ## lint, tests, every chapter at its quick size, the book in a browser; without the slow tests
	$(call pytest,-m "not slow")

test-all: test-book  ## the same with the slow tests: more kills and clusters, compiled models, all pages
	$(call pytest)

test-book: lint
	rm -rf $(TESTED) _build/tests.xml
	mkdir -p $(TESTED)
	cp -r book _config.yml _toc.yml $(TESTED)
	ln -s ../../published $(TESTED)/published
	MEMLIB_RESULTS=$(CURDIR)/$(TESTED)/results \
	$(BIN)/python -m book._ext.build --size quick --root $(TESTED) --jobs $(AT_ONCE)

# nbval runs the chapters that this book has not executed, as they come from published/. They come first, so that no
# long file is left for the end, when the other workers have nothing to do.
define pytest
MEMLIB_RESULTS=$(CURDIR)/$(TESTED)/results OMP_NUM_THREADS=1 \
$(BIN)/python -m pytest -n $(AT_ONCE) --dist loadfile --junitxml _build/tests.xml \
  --no-loadscope-reorder --nbval-lax --nbval-current-env --nbval-cell-timeout=300 $(1) \
  $$(for chapter in $(CHAPTERS); do \
    ls $(TESTED)/_build/executed/$$chapter > /dev/null 2>&1 || echo $$chapter; done) \
  tests memlib book/_ext
endef

lint: $(READY)  ## check format and style, and that the chapters carry no outputs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache
	$(if $(CHAPTERS),$(BIN)/nbstripout --verify --keep-id $(CHAPTERS))

clean:  ## remove what the build made: _build, caches, .venv (results/ and published/ stay)
	rm -rf _build $(VENV) memlib.egg-info .pytest_cache .ruff_cache book/.ruff_cache .hypothesis
	find book memlib tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "memlib needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Choose another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
