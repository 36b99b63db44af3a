# The front door. `make serve` and `make test` work on a fresh Debian 12 with git, make and Python.
#
# What is missing is installed first: Debian packages through apt-get (with sudo if you are not root), Python packages
# into .venv. Nothing outside .venv and those packages is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8080
HOST ?= localhost
SITE ?= examples/site
CYCLES ?= 15
WORKLOADS ?=
PYTHONS ?=

.PHONY: help serve test coverage lint format docs bench wheel wheel-test systemd-test cluster-test image-test install clean

help:
	@echo "make serve   serve $(SITE) on http://$(HOST):$(PORT)/ (PORT=, HOST=, SITE= change that)"
	@echo "make test    run the tests, against the real io_uring of this machine"
	@echo "make lint    ruff, mypy (strict), import contracts"
	@echo "make docs    write docs/behaviour.md from the rows that the tests run"
	@echo "make bench   measure against other servers (CYCLES=, WORKLOADS= for a quick look)"
	@echo "make wheel   build wheel and sdist into dist/"
	@echo "make wheel-test    install the wheel where there is no compiler, and for each Python (PYTHONS=), and serve"
	@echo "make systemd-test  run the unit of examples/systemd in a Debian of its own (root)"
	@echo "make cluster-test  three hosts behind HAProxy, in network namespaces, drained and killed under load (as root)"
	@echo "make image-test    build the container image without an engine, and run it (as root)"
	@echo "make clean   remove what these made"

serve: $(VENV)/.installed
	$(BIN)/ringserve $(SITE) --host $(HOST) --port $(PORT)

test: $(VENV)/.installed-dev coverage
	@scripts/install-debian chromium curl wget systemd haproxy libseccomp2
	$(BIN)/python -m pytest $(PURE_TESTS:%=--ignore=%)  # those have run

# The modules that only compute: every branch of them is taken by their tests.
PURE := ringserve/connection/states.py,ringserve/config/globs.py,ringserve/config/glob_index.py,ringserve/responders/policy.py,ringserve/http/proxies.py,ringserve/files/directory.py,ringserve/responders/listing.py,ringserve/http/dates.py,ringserve/http/semantics.py,ringserve/http/negotiation.py,ringserve/config/settings.py,ringserve/config/rules.py,ringserve/http/media_types.py,ringserve/http/request.py,ringserve/http/heads.py,ringserve/connection/prepared.py,ringserve/connection/remembered.py,ringserve/http/response.py,ringserve/static.py,ringserve/responders/steps.py,ringserve/processes/machine.py,ringserve/processes/events.py,ringserve/processes/messages.py,ringserve/connection/pace.py,ringserve/connection/budget.py,ringserve/ring/capability.py,ringserve/ring/diagnostics.py,ringserve/ring/fair.py,ringserve/ring/interrupt.py,ringserve/ring/linux/mountinfo.py,ringserve/ring/linux/lanes.py
PURE_TESTS := tests/connection/test_states.py tests/config/test_globs.py tests/config/test_glob_index.py tests/responders/test_policy.py tests/http_values/test_proxies.py tests/files/test_directory.py tests/responders/test_listing.py tests/http_values/test_dates.py tests/http_values/test_semantics.py tests/config/test_config.py tests/http_values/test_media_types.py tests/http_values/test_request.py tests/connection/test_remembered.py tests/http_values/test_response.py tests/test_static.py tests/processes/test_machine.py tests/connection/test_pace.py tests/connection/test_budget.py tests/ring/test_fair.py tests/ring/test_capability.py tests/ring/test_diagnostics.py tests/ring/test_mountinfo.py tests/ring/test_lanes.py
coverage: $(VENV)/.installed-dev
	$(BIN)/python -m coverage run -m pytest -q $(PURE_TESTS)
	$(BIN)/python -m coverage report --show-missing --fail-under=100 --include="$(PURE)"

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The page of behaviour is made of the rows that the tests run.
docs: $(VENV)/.installed-dev
	$(BIN)/python tests/behaviour_page.py

bench: $(VENV)/.installed-bench
	@benchmarks/install-peers
	$(BIN)/python benchmarks/compare.py --cycles $(CYCLES) --workloads "$(WORKLOADS)"

# The linker is told without Python's own flags, which may name directories of this machine. auditwheel gives the wheel
# the tag of the oldest C library that it runs with.
wheel: $(VENV)/.installed-package
	rm -rf dist
	LDSHARED="cc -shared -Wl,-z,relro,-z,now" $(BIN)/python -m build --quiet --outdir dist
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
	$(BIN)/twine check --strict dist/*

# PYTHONS="python3.12 ..." in place of those of 3.11 to 3.13 that are found.
wheel-test: wheel
	@scripts/install-debian debootstrap binutils
	$(BIN)/python scripts/wheel_test.py --pythons "$(PYTHONS)"

systemd-test: wheel
	@scripts/install-debian debootstrap systemd-container procps
	$(BIN)/python scripts/systemd_test.py

cluster-test: $(VENV)/.installed
	@scripts/install-debian --not-started haproxy iproute2 wrk
	$(BIN)/python tests/cluster/cluster.py

# The base and the layers are kept in build/image-test, so that only the first run is long.
image-test: $(VENV)/.made
	@scripts/install-debian debootstrap buildah runc strace golang-github-containers-common
	$(BIN)/python tests/image/image_checks.py build/image-test

install: $(VENV)/.installed

SOURCES := pyproject.toml setup.py ringserve/ring/uring/build_uring.py ringserve/ring/uring/shim.c ringserve/ring/uring/shim.h

# A stamp, and not bin/python: that exists before the rest does, and a venv cut off half-way would never be mended.
$(VENV)/.made:
	@scripts/install-debian --for-build "$(PYTHON)"
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made $(SOURCES)
	@scripts/install-debian --for-build "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,lint]'
	@touch $@

$(VENV)/.installed-package: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[package]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f ringserve/ring/uring/_uring.c ringserve/ring/uring/_uring*.so ringserve/ring/uring/_uring*.o
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
