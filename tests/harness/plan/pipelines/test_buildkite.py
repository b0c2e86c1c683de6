"""A Buildkite pipeline: valid by the models and the schema of Buildkite's own package."""

import pytest

from harness.plan.pipelines.buildkite import RETRY, jobs, pipeline, steps_of, uploads
from harness.plan.pipelines.checks import problems
from tests.harness.plan.pipelines.requests import request

ASKED = request(
    shards=4, soft=frozenset({"mi355"}), optional=frozenset({"mi355"}), queues=(("h100", "pool"),)
)


def test_shards_are_run_then_joined_whatever_their_end():
    run, report = steps_of(ASKED, ASKED.targets[0])
    assert (run["parallelism"], run["agents"]) == (4, {"queue": "pool"})
    assert "--shard auto" in run["commands"][1]
    assert "--out runs/moe-ci-h100-2/$$BUILDKITE_PARALLEL_JOB" in run["commands"][1]
    assert run["artifact_paths"] == ["runs/moe-ci-h100-2/**/*"]
    assert report["depends_on"] == [{"step": run["key"], "allow_failure": True}]
    assert "harness collect runs/moe-ci-h100-2 " in report["commands"][1]
    assert report["agents"] == {"queue": "cpu"}
    assert "soft_fail" not in run


def test_an_optional_device_waits_for_its_block_and_holds_up_nothing():
    block, run, report = steps_of(ASKED, ASKED.targets[1])
    assert block["depends_on"] == []
    assert run["depends_on"] == [block["key"]]
    assert run["soft_fail"] == report["soft_fail"] == [{"exit_status": 1}]


def test_only_the_machines_faults_are_tried_again():
    tried = [rule["exit_status"] for rule in RETRY["automatic"]]
    assert tried == [75, -1, 255]


def test_one_job_needs_no_shard():
    run, _ = steps_of(request("cpu"), request("cpu").targets[0])
    assert "parallelism" not in run
    assert "--shard" not in run["commands"][1]


def test_large_pipelines_are_uploaded_in_parts_that_keep_targets_together():
    whole = pipeline(request("h100:1,h100:2,h100:4", shards=200))
    parts = uploads(whole, 450)
    assert [sum(map(jobs, part["steps"])) for part in parts] == [402, 201]
    assert [step for part in parts for step in part["steps"]] == whole["steps"]
    assert [problems(part) for part in parts] == [[], []]


def test_buildkites_own_models_accept_it_and_refuse_what_is_wrong():
    schema = pytest.importorskip("buildkite_sdk.schema")
    for step in pipeline(ASKED)["steps"]:
        model = schema.BlockStep if "block" in step else schema.CommandStep
        model.model_validate(step)
        with pytest.raises(ValueError, match="depends_on"):  # the schema refuses unknown keys
            model.model_validate({**step, "depends_on": 3})


def test_buildkites_schema_accepts_it_and_refuses_what_is_wrong():
    """Each step against its own definition: the union's messages say nothing."""
    import json
    from pathlib import Path

    import jsonschema

    package = pytest.importorskip("buildkite_sdk")
    schema = json.loads((Path(package.__file__).parent / "schema.json").read_text())
    for step in pipeline(ASKED)["steps"]:
        name = "blockStep" if "block" in step else "commandStep"
        checker = jsonschema.Draft7Validator(
            {"definitions": schema["definitions"], "$ref": f"#/definitions/{name}"}
        )
        checker.validate(step)
        for wrong in ({"retries": 3}, {"key": "a b"}):
            assert list(checker.iter_errors({**step, **wrong}))
