# The two commands: make demo, make dev. Each target sets up what it needs.
DATA ?= auto
CLINICAL_HOME ?= data
export CLINICAL_HOME
export CLINICAL_RAW ?= data/raw
export DAGSTER_HOME = $(abspath $(CLINICAL_HOME))/dagster
BIN = .venv/bin
READY = .venv/.ready

.PHONY: demo dev test test-systems check clean-demo

demo: $(READY)
	@$(BIN)/clinical demo --data $(DATA)

dev: $(READY)
	@$(BIN)/clinical init
	@$(BIN)/dg dev --host 127.0.0.1 --port 3000

# No more processes than this: each takes up to 3 GB.
test: $(READY)
	@$(BIN)/pytest --ignore tests/systems --numprocesses logical --maxprocesses 4 --no-loadscope-reorder

# What needs a system beside the platform (Prometheus, DVC, ...); what is not installed is skipped, but not in CI.
test-systems: $(READY)
	@$(BIN)/pytest tests/systems --numprocesses logical --maxprocesses 2 --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/dg check defs

clean-demo:
	rm -rf $(CLINICAL_HOME)/lake $(CLINICAL_HOME)/registry $(CLINICAL_HOME)/reports $(CLINICAL_HOME)/governance \
	    $(CLINICAL_HOME)/keys $(CLINICAL_HOME)/dagster $(CLINICAL_HOME)/simulated $(CLINICAL_HOME)/archives.json $(CLINICAL_HOME)/demonstration.json \
	    $(CLINICAL_HOME)/audit $(CLINICAL_HOME)/identified $(CLINICAL_HOME)/outbox \
	    $(CLINICAL_HOME)/analytics.duckdb $(CLINICAL_HOME)/.analytics.duckdb.*

# The first Python that fits; where there is none, uv brings one.
$(READY): requirements.lock pyproject.toml
	@[ -x $(BIN)/python ] || for name in python3.11 python3.12 python3; do \
	    if $$name -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2> /dev/null; then \
	        $$name -m venv .venv && break; \
	    fi; \
	done
	@[ -x $(BIN)/python ] || uv venv --quiet --seed --python 3.11 .venv 2> /dev/null || { \
	    echo "Python 3.11 or 3.12 is needed: install one (for example: apt install python3.11-venv), or install uv"; exit 1; }
	@echo "installing the locked dependencies into .venv (a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)
