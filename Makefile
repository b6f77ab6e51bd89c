# The commands of the project; `make help` lists them.

# The one place where the ROS 2 distribution of the wheels is chosen: jazzy or kilted.
ROS_DISTRIBUTION ?= jazzy
PYTHON ?= python3
INPUT ?=
MODEL ?=
PYTEST_ARGS ?=
# Of the tests. A narrowed run has one, so that -x, -s and --pdb do what they say.
PROCESSES ?= $(if $(PYTEST_ARGS),0,2)

IN_ENVIRONMENT := scripts/in_environment

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all lint bench ratios docs clean distclean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 19

setup:  ## make .venv/ and install/; nothing is done twice
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no $(PYTHON). Install with: sudo apt install python3 python3-venv python3-dev" >&2; exit 1; }
	@$(PYTHON) scripts/setup_environment.py --distribution $(ROS_DISTRIBUTION)

demo: setup  ## stream a synthetic camera, or INPUT=path, through the node; see demo_output/
	@$(IN_ENVIRONMENT) r3 demo --output demo_output $(if $(INPUT),--input "$(INPUT)") $(if $(MODEL),--model "$(MODEL)")

test: setup  ## run the tests but for slow ones; PYTEST_ARGS="-k geometry" narrows them
	@$(IN_ENVIRONMENT) python -m pytest -n $(PROCESSES) --dist loadfile -m "not slow" $(PYTEST_ARGS)

test-all: setup  ## run all tests
	@$(IN_ENVIRONMENT) python -m pytest -n $(PROCESSES) --dist loadfile $(PYTEST_ARGS)

lint: setup  ## check style, types and spelling
	@$(IN_ENVIRONMENT) ruff check .
	@$(IN_ENVIRONMENT) ruff format --check .
	@$(IN_ENVIRONMENT) mypy
	@$(IN_ENVIRONMENT) codespell

bench: setup  ## measure where the time goes on this machine; MODEL=r3_tiny
	@$(IN_ENVIRONMENT) r3 bench --quick $(if $(MODEL),--model "$(MODEL)")

ratios: setup  ## compare the speed of this code with benchmarks/stored_ratios.json
	@$(IN_ENVIRONMENT) python benchmarks/ratios.py

docs: setup  ## build the documentation site, build/docs/index.html
	@$(IN_ENVIRONMENT) python -m pip install --quiet --constraint requirements/constraints.txt \
	  --requirement requirements/docs.txt
	@$(IN_ENVIRONMENT) sphinx-build -E -a -W --keep-going -n -q -c docs . build/docs
	@echo "written to build/docs/index.html"

clean:  ## remove what was built and written, keep .venv/
	rm -rf build install log demo_output r3_ros.egg-info .pytest_cache .mypy_cache .ruff_cache

distclean: clean  ## remove .venv/ too
	rm -rf .venv
