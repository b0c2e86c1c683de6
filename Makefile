# One command each. The first makes everything that it needs:
#   make test-matrix   sets up .venv and runs the suite that fits this machine
#   make test          the project's own checks and tests
#   make test-extra-rows   with one more row in every table (tests/extra_rows), the tests that can
#                          tell: see tests/row_selection.py
#   make compile-matrix    compiles the Triton kernels that the suites ci and ci8 launch for other chips,
#                          without a GPU; ARGS="--suite nightly" adds those of another suite
#   make bench-kernels     times every format of the Triton kernels beside other backends, on a GPU
#   make bench-all2all     times dispatch and combine of each all2all backend
#   make bench-reliability   the same faults under this runner, torch's spawn, its test case and xdist
#   make soak   thousands of small cases in one run, with a fault every 200
#   make golden            writes anew what the oracle decides and what plans refuse (tests/golden)
#   make test-subjects     the tests of released packages, which it installs (extra `subjects`)
#   make test-ray          the tests of `run --engine ray`, with Ray, which it installs (extra `ray`)
#
# SUITE=name      another suite of configs/matrix.yaml      ARGS="..."  more options for the command
# EXTRAS=cuda     extras of pyproject.toml to install too
# PYTHON=/path    an interpreter that already has torch: used as it is, nothing is installed
#
# make turns every failure into exit code 2. CI steps that want the harness's own codes run
# `make setup`, then `python -m harness ...` with .venv/bin/python.

.DEFAULT_GOAL := help
.PHONY: help setup test-matrix compile-matrix golden test test-extra-rows test-subjects test-ray check bench-engine bench-judge bench-diagnosis bench-covering bench-kernels bench-all2all bench-reliability soak mistakes evidence clean

SUITE ?= $(shell $(PY) scripts/setup_env.py --suite)
ARGS ?=
EXTRAS ?=

ifdef PYTHON
PY := $(PYTHON)
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := .venv/bin/python
endif

# A file's tests stay in one worker: what its fixtures take seconds to make, they make once.
WORKERS = -n 2 --dist loadfile

# Both end with one line where there is no Python that will do.
IS_NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
CANDIDATES = python3 python3.14 python3.13 python3.12 python3.11

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

setup:
ifdef PYTHON
	@$(PY) $(IS_NEW_ENOUGH) || { echo "set-up: PYTHON=$(PYTHON) is no Python 3.11 or later" >&2; exit 1; }
	@$(PY) scripts/setup_env.py --as-is
else
	@for python in $(CANDIDATES); do \
	    if $$python $(IS_NEW_ENOUGH); then exec $$python scripts/setup_env.py --extras '$(EXTRAS)'; fi; \
	done; \
	echo "set-up: Python 3.11 or later is needed, and none of $(CANDIDATES) is one" >&2; exit 1
endif

test-matrix: setup
	$(PY) -m harness run --suite $(SUITE) $(ARGS)

compile-matrix: setup
	$(PY) -m harness compile --suite ci --suite ci8 $(ARGS)

golden: setup
	$(PY) -m harness.plan.golden

test: check
	$(PY) -m pytest $(WORKERS) $(ARGS)

test-extra-rows: setup
	PYTHONPATH=$(CURDIR)/tests/extra_rows$(if $(PYTHONPATH),:$(PYTHONPATH)) $(PY) -m pytest $(WORKERS) $(ARGS)

test-subjects: EXTRAS = subjects
test-subjects: setup
	$(PY) -m pytest $(WORKERS) $(ARGS) tests/moe/test_released.py \
	    tests/moe/experts/test_transformers_experts.py tests/moe/experts/test_torchtitan_experts.py \
	    tests/moe/layers/test_transformers_blocks.py tests/moe/layers/test_torchtitan_moe.py \
	    tests/moe/layers/test_transformers_shared_blocks.py tests/moe/routers/test_sglang_gate.py \
	    tests/moe/experts/test_sglang_experts.py tests/moe/routers/test_sglang_torch.py \
	    tests/moe/routers/test_vllm_torch.py tests/moe/routers/test_megablocks.py tests/moe/test_sglang_functions.py \
	    tests/moe/test_tuned_tiles.py tests/moe/test_vllm_kernels.py tests/moe/test_sglang_kernels.py \
	    tests/moe/test_custom_ops.py \
	    tests/moe/experts/test_fused_moe.py tests/moe/experts/test_torchao_experts.py \
	    tests/harness/matrix/traces tests/harness/report/test_trace_results.py \
	    tests/harness/testing/test_record.py

test-ray: EXTRAS = ray
test-ray: setup
	$(PY) -m pytest $(ARGS) tests/harness/engine/test_ray_cluster.py \
	    tests/harness/engine/test_ray_pool.py tests/harness/engine/test_ray_agent.py

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command; lint_imports_command()'

bench-engine: setup
	$(PY) benchmarks/engine.py $(ARGS)

bench-judge: setup
	$(PY) benchmarks/judge.py $(ARGS)

bench-diagnosis: setup
	$(PY) benchmarks/diagnosis.py $(ARGS)

bench-covering: setup
	$(PY) benchmarks/covering.py $(ARGS)

bench-kernels: setup
	$(PY) benchmarks/kernels.py $(ARGS)

bench-all2all: setup
	$(PY) benchmarks/all2all.py $(ARGS)

bench-reliability: setup
	$(PY) benchmarks/reliability.py $(ARGS)

soak: setup
	$(PY) benchmarks/soak.py $(ARGS)

mistakes: setup
	$(PY) tests/mistakes/show_mistakes.py $(ARGS)

evidence: mistakes
	$(PY) benchmarks/rules.py
	$(PY) benchmarks/detection.py
	$(PY) benchmarks/bounds_plot.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
