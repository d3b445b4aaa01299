# Everything runs in the project's own .venv, made by `make setup` (and by any target that needs it).
SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench lab docs readme environment export clean

PYTHON ?=
BIN := .venv/bin
DONE := .venv/.done
export PATH := $(CURDIR)/$(BIN):$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(DONE)  ## make .venv from Python 3.11 and install everything, once

demo: $(DONE)  ## run the VQ-GAN and dVAE report on synthetic people, small, into _runs/demo/
	@$(BIN)/python tools/demo.py

test: $(DONE)  ## run every test and execute every notebook; ARGS="-k core" selects
	@$(BIN)/python -m pytest -v $(ARGS)

bench: $(DONE)  ## time what is fast against plain references, into _runs/benchmarks.json; ARGS="render" selects
	@$(BIN)/python -m benchmarks $(ARGS)

lab: $(DONE)  ## open the notebooks in JupyterLab; saving cleans them
	@$(BIN)/python -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs \
	  --ContentsManager.pre_save_hook=nbdev.clean.clean_jupyter $(ARGS)

docs: $(DONE)  ## render the notebooks as pages with search and reference, from _site/index.html on
	@$(BIN)/python tools/pages.py

readme: $(DONE)  ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/render.py readme

environment: $(DONE)  ## write environment.yml from settings.ini
	@$(BIN)/python tools/environment.py

export: clean  ## write motion_vq/ from the notebooks, after cleaning them
	@$(BIN)/nbdev_export

clean: $(DONE)  ## strip execution counts, foreign metadata, live widgets and the outputs of cells tagged `clock`; other outputs and tags stay
	@$(BIN)/python tools/still.py
	@$(BIN)/nbdev_clean

$(DONE): constraints.txt settings.ini setup.py
	@is_311() { "$$1" -c 'import sys, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; }; \
	if ! is_311 $(BIN)/python; then \
	  for python in $(or $(PYTHON),python3.11 python3); do is_311 "$$python" && break; python=; done; \
	  if [ -z "$$python" ]; then \
	    echo "Python 3.11 with venv is needed, and was not found as $(or $(PYTHON),python3.11 or python3)" \
	         "(python3 is $$(python3 --version 2>&1)). Install it, or name it: make setup PYTHON=/path/to/python3.11" >&2; \
	    exit 1; fi; \
	  echo "making .venv from $$($$python --version)"; "$$python" -m venv --clear .venv; fi
	@rm -f $@
	@echo "installing $$(grep ^torch== constraints.txt)"
	@$(BIN)/python -m pip install -qq -c constraints.txt "$$(grep ^torch== constraints.txt)"
	@echo "installing motion_vq and the tools to develop it"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[dev]'
	@touch $@
