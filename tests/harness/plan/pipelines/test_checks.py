"""What Buildkite's schema lets pass: each is reported."""

from harness.plan.pipelines.buildkite import pipeline
from harness.plan.pipelines.checks import problems
from tests.harness.plan.pipelines.requests import request


def changed(**changes):
    whole = pipeline(request("h100:2"))
    whole["steps"][0].update(changes)
    return problems(whole)


def test_each_gap_of_the_schema():
    assert changed() == []
    for changes, text in (
        ({"key": "moe-ci-h100-2-report"}, "2 steps have the key 'moe-ci-h100-2-report'"),
        ({"key": "other"}, "depends_on names 'moe-ci-h100-2', which no step has as its key"),
        ({"depends_on": ["absent"]}, "depends_on names 'absent'"),
        ({"key": "k" * 101}, "must have at most 100 letters"),
        ({"key": "a b"}, "must have at most 100 letters"),
        ({"concurrency": 1}, "concurrency needs a concurrency_group"),
        ({"matrix": ["a"], "parallelism": 2}, "matrix and parallelism exclude each other"),
        ({"soft_fail": [{"exit_status": [1, 2]}]}, "soft_fail takes one exit status a rule"),
        ({"parallelism": 450}, "451 jobs are more than an upload may have (450)"),
        ({"commands": ["echo $HOME"]}, "a single $ is replaced at upload"),
        ({"commands": ["echo $$$HOME"]}, "a single $ is replaced at upload"),
    ):
        assert any(text in line for line in changed(**changes)), text
    assert changed(commands=["echo $$HOME"]) == []
