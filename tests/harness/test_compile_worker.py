"""The process that records and compiles: real kernels for a chip that is not here; the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import compile_worker
from harness.compile_worker import Results, events, recording_key
from harness.matrix.case import MoETestConfig

CASE = MoETestConfig(m=2, n=64, k=64, num_experts=4, top_k=2, experts="triton").id
IDS = {"sm90": [CASE]}
KERNELS = {"_count", "_place", "_grouped_gemm", "_combine"}


def printed(environment, ids, cache):
    command = [sys.executable, "-m", "harness.compile_worker", str(cache), "2"]
    done = subprocess.run(
        command, env=environment, input=json.dumps(ids), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def first(environment_to_compile, cache):
    return printed(environment_to_compile, IDS, cache)


def test_every_kernel_of_a_case_is_compiled(first):
    head, *results = first
    assert head["recorded"] == {"sm90": len(results)}
    assert {result["kernel"] for result in results} >= KERNELS
    assert all(r["refusal"] is None and not r["cached"] for r in results)
    assert max(result["shared_bytes"] for result in results) > 0


def test_nothing_is_compiled_or_recorded_again(first, cache, monkeypatch):
    """Neither torch nor Triton is needed: this process would interpret."""
    monkeypatch.setattr(compile_worker, "_record", None)
    head, *results = events(IDS, cache, 1)
    assert head["recorded"] == first[0]["recorded"]
    again = {result["key"]: result for result in results}
    assert again == {result["key"]: result | {"cached": True} for result in first[1:]}


def test_a_lost_result_is_compiled_again(first, cache, environment_to_compile, tmp_path):
    lines = (cache / "results.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join([*lines[1:], lines[0][:40]]))
    _, *results = printed(environment_to_compile, IDS, tmp_path)
    assert [r["key"] for r in results if not r["cached"]] == [json.loads(lines[0])["key"]]


def test_a_refusal_is_not_kept(tmp_path):
    results = Results(tmp_path / "results.jsonl")
    results.add({"key": "a", "refusal": None})
    results.add({"key": "b", "refusal": "ValueError: no"})
    assert set(Results(tmp_path / "results.jsonl").by_key) == {"a"}


def test_the_record_depends_on_cases_sources_and_versions(tmp_path, monkeypatch):
    monkeypatch.setattr(compile_worker, "_ROOT", tmp_path)
    (tmp_path / "moe").mkdir()
    source = tmp_path / "moe" / "kernel.py"
    source.write_text("A = 1")
    keys = {recording_key(IDS), recording_key({"sm90": [], "sm100": [CASE]})}
    source.write_text("A = 2")
    keys.add(recording_key(IDS))
    monkeypatch.setattr(compile_worker, "_version", lambda package: "0")
    keys.add(recording_key(IDS))
    assert len(keys) == 4


def test_a_case_that_cannot_be_recorded_is_told_and_costs_no_other(
    tmp_path, environment_to_compile
):
    """A layer that reads a tensor's values cannot run without them."""
    reads_values = MoETestConfig.from_id(CASE).replace(experts="torch_loop").id
    lines = printed(environment_to_compile, {"sm90": [reads_values]}, tmp_path)
    (failed,) = [line["failed"] for line in lines if "failed" in line]
    assert failed.startswith(f"{reads_values}: NotImplementedError: ")
    assert not list(tmp_path.glob("recorded-*"))


def test_a_worker_imports_nothing_heavy_until_it_must():
    code = "import sys, harness.compile_worker; print({'torch', 'triton'} & set(sys.modules))"
    environment = dict(os.environ, PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "set()"
