# Each target sets up .venv by itself; make and Python 3.11 or newer are all that is needed.
#
#   make demo     change one fact in a real vision-language model and watch what happens
#   make test     run the tests
#   make check    lint, format, types
#   make contract  every cell of the contract suite, of which make test runs a covering choice
#   make site     the documentation site, warnings are errors (site/index.html)
#   make notebooks  run the notebooks in examples/
#   make package  the wheel and the source archive, checked (dist/)
#   make package-check  install the wheel into an empty environment and run the demo there
#   make bench     what edits and answers cost here, against plain references (QUICK=1: at most 8 minutes)
#   make backbones  the table of what is proven for which model family (docs/backbones.md)
#
# PYTHON=python3.12 chooses another Python; PIP_FLAGS are passed to pip install, e.g. on Linux without a GPU, to spare
# yourself the CUDA libraries: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: types pages demo test contract check backbones site notebooks package package-check bench format setup

demo: $(STAMP)
	$(BIN)/vledit demo

test: $(STAMP)
	$(BIN)/vledit data build icons --only demo
	$(BIN)/python -m pytest -n 2 --dist loadfile

contract: $(STAMP)
	$(BIN)/python -m pytest --whole tests/contract

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory --jobs=2 types pages

types: $(STAMP)
	$(BIN)/pyright

pages: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir .site

bench: $(STAMP)
	$(BIN)/vledit data build icons
	$(BIN)/python benchmarks/bench.py $(if $(QUICK),--quick) --draw docs/images/bench.svg

backbones: $(STAMP)
	$(BIN)/python benchmarks/backbones.py

site: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(STAMP)
	$(BIN)/jupyter-execute --timeout=600 examples/*.ipynb

package: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check dist/*

package-check: package
	$(BIN)/python benchmarks/wheel_check.py --pip-flags "$(PIP_FLAGS)" --json dist/wheel_check.json

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: no '$(PYTHON)' found. Install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = v >= (3, 11); \
	ok or print(f"error: $(PYTHON) is Python {v[0]}.{v[1]}; 3.11 or newer is needed. Try: make PYTHON=python3.12", file=sys.stderr); \
	sys.exit(not ok)'
	$(PYTHON) -m venv $(VENV) || { echo "error: cannot make a virtual environment (on Debian or Ubuntu: apt install python3-venv)." >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $(PIP_FLAGS) -e '.[dev]'
	@touch $@
