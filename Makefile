# The two commands of the README do all their own set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest

.PHONY: demo test test-slow test-oldest lint speed clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks run digits --out demo-output

# bytecode is kept whatever the shell says: pytest would rewrite every assertion again, for 12 s of each
# worker, and the processes that tests start would compile the package again
test test-slow test-oldest: export PYTHONDONTWRITEBYTECODE =

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

# the oldest versions that setup.cfg admits; they have wheels for Python 3.11 and 3.12
test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

speed: $(STAMP)
	$(BIN)/python -m benchmarks run speed

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("diffeat needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): about 7 GB, some minutes"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

$(OLDEST)/.installed: setup.cfg pyproject.toml scripts/oldest.py
	$(PYTHON) -c 'import sys; sys.exit("the oldest versions need Python 3.11 or 3.12") if sys.version_info[:2] not in ((3, 11), (3, 12)) else None'
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) scripts/oldest.py > $(OLDEST)/oldest.txt
	@echo "installing the oldest versions into $(OLDEST): about 7 GB, some minutes"
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/oldest.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) demo-output runs build *.egg-info .pytest_cache .ruff_cache
