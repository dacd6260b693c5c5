# attnzoo: what a fresh clone can do. Every target makes .venv when it is missing and is quick when it is not.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all tritons lint bench table browser clean

demo: .venv/installed
	$(BIN)/attnzoo demo

# two processes, for a test has one thread
test: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

# the cases that `make test` leaves out, too
test-all: .venv/installed
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

# every kernel with other versions of Triton, each in a folder of its own
TRITONS := 3.4.0 3.5.1 3.6.0 3.7.0 3.8.0 3.9.0

tritons: .venv/installed $(TRITONS:%=.tritons/%)
	for version in $(TRITONS); do \
	  PYTHONPATH=$(CURDIR)/.tritons/$$version:$(CURDIR) $(BIN)/python tests/kernels/start_kernels.py --full || exit 1; \
	done

.tritons/%: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $@ triton==$*

# mypy checks the package as a tree of links of its own, which does not depend on the installation
lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf .lint && mkdir -p .lint/attnzoo
	ln -s $(CURDIR)/zoo/* .lint/attnzoo/
	ln -s $(addprefix $(CURDIR)/,blocks kernels configs tools) .lint/attnzoo/
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layout.py

bench: .venv/installed
	$(BIN)/python -m benchmarks kernels

table: .venv/installed
	$(BIN)/python -m attnzoo.tools.listing
	$(BIN)/attnzoo list --readme docs/models.md
	$(BIN)/python -m benchmarks families README.md

# what examples/browser and its test need; without npm that test is skipped
browser: examples/browser/node_modules/.installed

examples/browser/node_modules/.installed: examples/browser/package.json
	cd examples/browser && npm install --no-audit --no-fund --loglevel=error
	touch $@

clean:
	rm -rf examples/browser/node_modules
	rm -rf .venv .lint .tritons .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info runs
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# the editable install has a link for each file: a file that is added needs one
.venv/files: .FORCE
	@mkdir -p .venv
	@find zoo blocks kernels configs tools attnzoo_command -name "*.py" -o -name "*.json" | sort > $@.found
	@cmp -s $@.found $@ || cp $@.found $@

.FORCE:

.venv/installed: pyproject.toml .venv/files
	@echo "installing the packages into .venv: this takes minutes, and README says how to do without CUDA"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all]"
	touch $@
