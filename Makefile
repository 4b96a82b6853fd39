# Prompt to Pixels. `make` alone lists what there is.

VENV   := .venv
PYTHON ?= python3
RUN    := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
TESTS  := $(VENV)/.installed-tests

# The prompt travels in the environment, as typed: neither make nor the shell reads it as text.
unexport PROMPT
export DRAW_PROMPT := $(value PROMPT)

.PHONY: help lab install test test-quick test-browser draw refresh book

help:
	@echo 'make lab                    install what is missing and open the notebooks in JupyterLab'
	@echo 'make draw PROMPT="a seven"  draw in the terminal and write a PNG to outputs/'
	@echo 'make test                   check everything, every notebook included (takes minutes)'
	@echo 'make test-quick             the same without notebooks, browser and slow tests'
	@echo 'make test-browser           only the pages, in JupyterLab and a headless Chromium'
	@echo 'make book                   make a website of the notebooks as they are, in _build/html'
	@echo 'make install                only make the environment in $(VENV)'
	@echo 'make refresh                run the notebooks and keep their outputs (NOTEBOOK=path for one)'

install: $(STAMP)

EXTRAS = measured
$(TESTS): EXTRAS = measured,test

# The first mark says that notebooks and helpers are installed, the second that tests and book are,
# too; one that is older than pyproject.toml is brought up to date. A third mark stands there while
# pip works: a folder that still bears it was interrupted and is emptied. A folder without any was
# not made here and is left alone. If pip itself gives up, what was complete before still is.
.PHONY: interrupted
$(STAMP) $(TESTS): pyproject.toml $(if $(wildcard $(VENV)/.unfinished),interrupted)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "This needs Python 3.11 or newer, and '$(PYTHON)' is not: name another one, as in  make install PYTHON=python3.12" >&2; \
	  exit 2; }
	@if test -e "$(VENV)/.unfinished"; then \
	  echo "$(VENV) was never finished: starting again."; \
	  find "$(VENV)/" -mindepth 1 ! -name .unfinished -delete; \
	elif test -e "$(VENV)" && ! test -e "$(STAMP)"; then \
	  echo "'$(VENV)' was not made by make: remove it, or name another folder, as in  make install VENV=.venv-make" >&2; \
	  exit 2; fi
	@mkdir -p "$(VENV)" && touch "$(VENV)/.unfinished"
	$(PYTHON) -m venv "$(VENV)"
	"$(RUN)" -m pip install --disable-pip-version-check -e ".[$(EXTRAS)]" || { \
	  test ! -e "$(STAMP)" || rm "$(VENV)/.unfinished"; exit 1; }
	@"$(RUN)" -m jupyterlab.labextensions disable --level=sys_prefix \
	  "@jupyterlab/apputils-extension:announcements" 2>/dev/null  # asks to fetch news otherwise
	@touch "$(STAMP)" "$@" && rm "$(VENV)/.unfinished"

# Started by root, Jupyter wants to hear that this is meant; without a display it only prints its
# address. LAB takes further options, as in LAB="--ip 0.0.0.0 --port 9000" for a container. What
# keeps git clean is found in this folder, which is on Python's path here.
lab: install
	@options=; \
	if test "$$(id -u)" = 0; then options=--allow-root; fi; \
	if test -n "$$SSH_CONNECTION" || { test "$$(uname)" != Darwin && \
	  test -z "$$DISPLAY$$WAYLAND_DISPLAY$$BROWSER"; }; then options="$$options --no-browser"; fi; \
	exec "$(RUN)" -m jupyterlab --LabApp.default_url=/lab/tree/notebooks \
	  --FileContentsManager.pre_save_hook=notebooks.book.lab.keep_kernel $$options $(LAB)

# Ruff is one of the tests, so that pytest's last line tells all. Options stand in pyproject.toml.
# Two workers of one thread each: two threads in one process spend more time waiting for each other.
WORKERS := OMP_NUM_THREADS=1 "$(RUN)" -m pytest -n 2 --dist loadfile
test: $(TESTS)
	$(WORKERS)

test-quick: $(TESTS)
	$(WORKERS) tests --ignore=tests/browser --ignore=tests/slow

# Without Chromium these are skipped, with a line that says what to install; in CI they fail.
test-browser: $(TESTS)
	"$(RUN)" -m pytest tests/browser

draw: install
	@if test -z "$$DRAW_PROMPT"; then \
	  echo 'Say what to draw, as in  make draw PROMPT="a seven"' >&2; exit 2; fi
	@"$(RUN)" -m helpers draw --out outputs -- "$$DRAW_PROMPT"

refresh: $(TESTS)
	"$(RUN)" notebooks/book/refresh.py $(NOTEBOOK)

# From the outputs that the notebooks were committed with: nothing is run, nothing is fetched.
book: $(TESTS)
	@"$(RUN)" notebooks/book/build.py
