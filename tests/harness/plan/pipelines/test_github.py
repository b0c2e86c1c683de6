"""The matrix of a GitHub Actions job."""

import pytest

from harness.errors import UsageError
from harness.plan.pipelines.github import matrix
from tests.harness.plan.pipelines.requests import request


def test_an_entry_for_each_shard_of_each_target():
    entries = matrix(request(shards=2))["include"]
    assert [entry["name"] for entry in entries] == [
        *("moe-ci-h100-2 1/2", "moe-ci-h100-2 2/2"),
        *("moe-ci-mi355-2 1/2", "moe-ci-mi355-2 2/2"),
    ]
    assert "--shard 2/2" in entries[1]["run"]
    assert len({entry["folder"] for entry in entries}) == 4


def test_more_jobs_than_a_matrix_may_have():
    with pytest.raises(UsageError, match="400 jobs are more than a matrix may have"):
        matrix(request(shards=200))
