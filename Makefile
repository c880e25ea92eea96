# Every verb of the project. `make` alone lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory --no-builtin-rules

# The folders `gateway`, `storage` and `sdk` lie in the current directory; without this, Python would import
# them as namespace packages.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# `make venv PYTHON=/path/to/python` chooses another interpreter.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# The stamp's name carries what the environment was made from, so any change of it makes a new install.
STAMP := $(VENV)/.installed-$(shell { cat pyproject.toml requirements.lock; pwd; } 2>/dev/null | sha256sum | cut -c1-16)
# Everything that is installed was hashed when it was locked. A source archive would run code of its own and fetch build
# tools that nobody hashed, so only wheels are taken; where one is missing, `make venv WHEELS=` says yes to that.
WHEELS ?= --only-binary :all:
INSTALL := -m pip install -qq --require-hashes $(WHEELS)
ARGS ?=
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest

# The TypeScript SDK. Its stamps lie with what they vouch for, so that removing that removes them too.
JS := sdk/js
JS_DEPS := $(JS)/node_modules/.installed-$(shell cat $(JS)/package.json $(JS)/package-lock.json 2>/dev/null | sha256sum | cut -c1-16)
JS_BUILT := $(JS)/dist/index.js
JS_TESTED := $(JS)/build/.tested

# Code that debugging slows down does not disturb; timing tests, faults and benchmarks run without it.
ASYNCIO_DEBUG := PYTHONASYNCIODEBUG=1

# What a failed recipe leaves behind is not taken for its result.
.DELETE_ON_ERROR:

.PHONY: help venv js web web-check chromium browser format lint types imports test test-parallel test-paired test-serial cover sim \
	faults soak mutants golden audit fuzz compiler conformance e2e \
	bench bench-peers bench-docs bench-syncs demo serve dist lock clean ci

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make .venv and install pushwire[gateway,dev] at the pinned versions

$(STAMP): pyproject.toml requirements.lock
	@[ -n "$(PYTHON)" ] || { echo "make: no Python 3.11 or newer found; install one or give PYTHON=..." >&2; exit 1; }
	@if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c '' 2>/dev/null || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		if ! $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null; then \
			if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
				echo "make: installing python3-venv"; \
				apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends python3-venv >/dev/null; \
			fi; \
			$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
				{ echo "make: $(PYTHON) has no venv module; install it (on Debian: apt-get install python3-venv)" >&2; exit 1; }; \
		fi; \
		echo "make: creating $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	@echo "make: installing pushwire[gateway,dev]"
	@$(BIN)/python $(INSTALL) -r requirements.lock
	@$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.installed-*
	@touch $@

js: $(JS_TESTED) ## the TypeScript SDK: install, type, build, measure and test what has changed

# Nothing of what is installed needs to run a script of its own for that.
$(JS_DEPS): $(JS)/package.json $(JS)/package-lock.json
	@node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null && command -v npm >/dev/null || \
		{ echo "make: Node 20 or newer with npm is needed for $(JS); install it" >&2; exit 1; }
	@echo "make: installing what $(JS) is built with"
	@cd $(JS) && npm ci --ignore-scripts --loglevel=error
	@touch $@

$(JS_BUILT): $(JS_DEPS) LICENSE $(wildcard $(JS)/src/* $(JS)/scripts/build.mjs $(JS)/tsconfig*.json)
	@cd $(JS) && npm run --silent build

$(JS_TESTED): $(JS_BUILT) $(wildcard $(JS)/test/* $(JS)/scripts/* $(JS)/examples/react/*.* $(JS)/README.md tests/vectors/*.json sdk/pushwire/version.py)
	@cd $(JS) && npm run --silent typecheck
	@cd $(JS) && npm run --silent example
	@cd $(JS) && npm run --silent size
	@cd $(JS) && npm test --silent
	@touch $@

# The dashboard needs Node and npm to be built, and nothing of either to be served. Where there is no npm, `make demo` and
# `make serve` do without it.
NPM := $(shell command -v npm 2>/dev/null)
WEB := web-demo
DASHBOARD := $(WEB)/pushwire_web/static/index.html
export BROWSER_TESTS_REQUIRED := 1

# npm writes this file last. What it links to, the SDK, is built before.
$(WEB)/node_modules/.package-lock.json: $(WEB)/package-lock.json $(WEB)/package.json $(JS_BUILT)
	@echo "make: installing what $(WEB) is built with"
	@cd $(WEB) && npm ci --ignore-scripts --loglevel=error
	@touch $@

$(DASHBOARD): $(WEB)/node_modules/.package-lock.json $(WEB)/index.html $(WEB)/vite.config.ts $(JS_BUILT) \
		$(shell find $(WEB)/src $(WEB)/public -type f 2>/dev/null)
	cd $(WEB) && npm run --silent build -- --logLevel warn
	@touch $@

web: $(DASHBOARD) ## build the dashboard that the gateway serves at /
	@:

web-check: $(DASHBOARD) ## types and unit tests of the dashboard
	cd $(WEB) && npm run --silent typecheck && npm run --silent test

chromium: ## Debian's Chromium, for the browser tests; nothing where it is there
	@command -v chromium >/dev/null || { \
		[ "$$(id -u)" = 0 ] || { echo "make: no chromium; install it (on Debian: apt-get install chromium)" >&2; exit 1; }; \
		echo "make: installing chromium"; \
		apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends chromium >/dev/null; \
	}

browser: $(STAMP) web chromium ## the dashboard in Chromium against a real gateway; PUSHWIRE_SHOTS=folder keeps pictures
	$(PYTEST) tests/browser $(ARGS)

format: $(STAMP) ## rewrite the Python sources in the house format, sort the imports
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Of the tests, those that are programs of their own are typed too; the others show their types by running.
types: $(STAMP) ## mypy: --strict over the four packages, less strictly over the programs among the tests
	$(BIN)/mypy
	$(BIN)/mypy .ci/audit.py
	$(BIN)/mypy tests/support tests/bench tests/faults tests/golden tests/sim tests/e2e

imports: $(STAMP) ## import contracts: which package may know which
	$(BIN)/lint-imports --no-cache --no-logo

# The real-process tests run alone, after the rest, so that their timing bars are not disturbed.
test: ## everything that must hold: lint, types, imports, the SDKs, the dashboard, all tests
	@$(MAKE) -j $(JOBS) --output-sync=target js lint types imports web-check chromium
	@$(MAKE) test-parallel
	@$(MAKE) test-paired
	@$(MAKE) test-serial

test-parallel: $(STAMP) ## the tests that may run side by side
	$(ASYNCIO_DEBUG) $(PYTEST) -m 'not serial and not paired' -n $(JOBS) --dist loadgroup $(ARGS)

test-paired: $(STAMP) ## real processes without timing bars, two files at a time
	$(PYTEST) -m paired -n $(JOBS) --dist loadfile $(ARGS)

test-serial: $(STAMP) $(JS_BUILT) compiler ## the tests that need the machine for themselves
	$(PYTEST) -m serial --durations=12 $(ARGS)

cover: $(STAMP) ## branch coverage of the parallel tests, per module
	$(ASYNCIO_DEBUG) $(PYTEST) -m 'not serial and not paired' -n $(JOBS) --dist loadgroup --cov --cov-report=term-missing $(ARGS)

conformance: $(STAMP) ## the one contract, every store
	$(ASYNCIO_DEBUG) $(PYTEST) tests/conformance $(ARGS)

e2e: $(STAMP) $(JS_BUILT) ## real gateway processes, real sockets
	$(PYTEST) tests/e2e $(ARGS)

sim: $(STAMP) ## the seeded simulator; ARGS='--seed N ...'
	PYTHONPATH=tests $(BIN)/python tests/sim/run.py $(ARGS)

# The power cuts, the failing operations and the clock steps go through a C library of the tests, made when they run.
faults: $(STAMP) compiler ## hurt a real gateway, at most 60 minutes; ARGS='...'
	PYTHONPATH=tests $(BIN)/python tests/faults/run.py $(ARGS)

soak: $(STAMP) ## half an hour of load with faults on: nothing may grow; ARGS='--minutes N'
	PYTHONPATH=tests $(BIN)/python tests/faults/soak.py $(ARGS)

FUZZ := build/fuzz/.installed-$(shell sha256sum < .ci/fuzz.txt 2>/dev/null | cut -c1-16)

$(FUZZ): .ci/fuzz.txt | $(STAMP)
	@echo "make: installing what 'make fuzz' runs"
	@rm -rf build/fuzz
	@$(BIN)/python $(INSTALL) --target build/fuzz -r .ci/fuzz.txt || \
		{ echo "make: atheris does not install here: nothing was fuzzed" >&2; exit 1; }
	@touch $@

fuzz: $(FUZZ) ## coverage-guided fuzzing of codec and tokens (atheris, where it installs); ARGS='--seconds 60 codec'
	PYTHONPATH=build/fuzz:tests $(BIN)/python tests/faults/fuzz.py $(ARGS)

mutants: $(STAMP) compiler ## break the gateway on purpose: the fault runs must notice (minutes)
	PYTHONPATH=tests $(BIN)/python tests/faults/mutants.py $(ARGS)

# In an environment of their own: what looks for weaknesses is no part of what is looked at.
TOOLS := build/tools/.installed-$(shell sha256sum < .ci/tools.txt 2>/dev/null | cut -c1-16)

$(TOOLS): .ci/tools.txt | $(STAMP)
	@echo "make: installing the tools of 'make lock' and 'make audit'"
	@$(BIN)/python -m venv --clear build/tools
	@build/tools/bin/python $(INSTALL) -r .ci/tools.txt
	@touch $@

audit: $(TOOLS) ## look all that is locked up among the known weaknesses; exceptions in .ci/audit-exceptions.txt
	$(BIN)/python .ci/audit.py build/tools/bin/pip-audit

golden: $(STAMP) ## make the golden file of a new schema, once, when it is released
	PYTHONPATH=tests $(BIN)/python tests/golden/make.py

compiler:
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || { \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "make: installing gcc"; \
			apt-get -q update >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends gcc libc6-dev >/dev/null; \
		else \
			echo "make: no C compiler (cc, gcc, clang): the faults below the file system cannot be tested" >&2; \
		fi; }

# A quick run has one round of everything in at most 90 s: for the daily look, not for quoting.
bench: $(STAMP) $(if $(NPM),$(JS_BUILT)) ## benchmarks beside the peers that are there; QUICK=1 in 90 s, ARGS='...'
	PYTHONPATH=tests $(BIN)/python tests/bench/run.py $(ARGS)

bench-peers: $(STAMP) ## fetch the peers of the benchmark and unpack them under build/peers
	PYTHONPATH=tests $(BIN)/python tests/bench/peers.py

bench-docs: $(STAMP) ## write docs/performance.md and its charts from the last run
	PYTHONPATH=tests $(BIN)/python tests/bench/document.py

bench-syncs: $(STAMP) ## count with strace what each contestant syncs
	PYTHONPATH=tests $(BIN)/python tests/bench/syncs.py

demo: $(STAMP) $(if $(NPM),web) ## a development gateway with traffic of its own
	$(BIN)/python -m pushwire_gateway.demo $(ARGS)

serve: $(STAMP) $(if $(NPM),web) ## a development gateway alone
	$(BIN)/pushwire serve --dev $(ARGS)

dist: $(STAMP) web ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/hatchling build -d dist

# For every platform and every Python from 3.11 on, with the hash of each file of a version. What is locked stays, unless
# told: ARGS=--upgrade, or ARGS='--upgrade-package NAME'. constraints.txt is the same without hashes.
LOCK := build/tools/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras \
	--no-header --no-annotate

lock: $(TOOLS) ## lock what is installed, with hashes; ARGS=--upgrade takes the newest versions
	$(LOCK) $(ARGS) --extra gateway --extra dev pyproject.toml -o requirements.lock >/dev/null
	$(LOCK) $(ARGS) .ci/tools.in -o .ci/tools.txt >/dev/null
	$(LOCK) $(ARGS) .ci/fuzz.in -o .ci/fuzz.txt >/dev/null
	{ echo "# The exact versions of pushwire[gateway,dev], made from requirements.lock by 'make lock'."; \
		sed -nE 's/^([a-z0-9.-]+)(\[[^]]*\])?(==[^ ]+).*/\1\3/p' requirements.lock; } > constraints.txt
	@wc -l constraints.txt requirements.lock .ci/tools.txt .ci/fuzz.txt

clean: ## remove the environment, caches and build output
	rm -rf $(JS)/node_modules $(JS)/dist $(JS)/build $(JS)/examples/react/build $(WEB)/node_modules $(WEB)/pushwire_web/static
	rm -rf $(VENV) dist htmlcov .coverage .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find gateway storage sdk web-demo tests -name __pycache__ -type d -not -path '*/node_modules/*' -prune -exec rm -rf {} +

ci: test dist ## what a release must pass
