"""A suite that is too large is refused before its points are made: by count, with the way out."""

import resource
import subprocess
import sys

import pytest

from harness.errors import UsageError
from harness.matrix import suite_size
from harness.matrix.expand import expand
from harness.matrix.load import load
from harness.matrix.suite_size import check_combinations

HEAD = """\
version: 1
defaults: {shapes: [[2, 64, 64]], num_experts: [8], experts: [torch_loop]}
suites:
"""
SMALL = "  small: {description: x, blocks: [{top_k: [1, 2], seed: [0, 1, 2]}]}\n"
BOTH = "  both: {description: x, include: [small], blocks: [{top_k: [2]}, {top_k: [1, 2, 4]}]}\n"
NUMBERS = ", ".join(map(str, range(1000)))
# Ten to the ninth points, in a file of 15 kB.
WIDE = f"top_k: [1], seed: [{NUMBERS}], router_scale: [{NUMBERS[3:]}], shared_width: [{NUMBERS}]"
BYTES = 3 << 30  # of address space: far less than so many points would take


def loaded(folder, text):
    path = folder / "matrix.yaml"
    path.write_text(HEAD + text)
    return load(path)


def test_a_suite_may_have_as_many_points_as_the_limit_and_no_more(tmp_path, monkeypatch):
    config = loaded(tmp_path, SMALL + BOTH)
    monkeypatch.setattr(suite_size, "MOST_CASES", 10)
    assert len(expand(config, "both")) == 7  # 6 + 1 + 3 points, of which 3 are there already
    monkeypatch.setattr(suite_size, "MOST_CASES", 9)
    assert len(expand(config, "small")) == 6
    with pytest.raises(UsageError) as caught:
        expand(config, "both")
    assert str(caught.value) == (
        "suite 'both' has 10 points, more than 9; its largest block, suites.small.blocks[0], has "
        "6: give it fewer values, or select: pairwise or random(1000, 1)"
    )


def test_combinations_times_values_are_limited():
    pairs = [(0, 1), (0, 2), (1, 2)]
    check_combinations([2, 3, 4], pairs, "pairwise")
    check_combinations([1000, 999, 1], [(0,)], "pairwise")
    with pytest.raises(UsageError) as caught:
        check_combinations([1000, 1000, 3], pairs, "pairwise")
    assert str(caught.value) == (
        "a block with select: pairwise has 1,006,000 combinations of 2,003 values; the product of "
        "both may be at most 100,000,000: give its axes fewer values, or select: random(1000, 1)"
    )


@pytest.mark.parametrize("command", ["list", "plan", "coverage", "run"])
@pytest.mark.parametrize("select", ["full", "triples"])
def test_each_command_refuses_a_billion_points_in_little_memory(tmp_path, command, select):
    suite = f"  wide: {{description: x, blocks: [{{select: {select}, {WIDE}}}]}}\n"
    (tmp_path / "matrix.yaml").write_text(HEAD + suite)
    options = ["--suite", "wide", "--config", str(tmp_path / "matrix.yaml")]
    done = subprocess.run(
        [sys.executable, "-m", "harness", command, *options],
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES)),
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.count("\n") == 1
    assert "random(1000, 1)" in done.stderr
