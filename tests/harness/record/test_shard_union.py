"""What joins shards; `tests/harness/commands/test_merge.py` joins runs, and breaks each rule."""

from harness.record.run_info import RefusedCase
from harness.record.shard_union import points_hash


def test_the_hash_knows_every_point_and_why_it_does_not_run_but_no_order():
    refused = [RefusedCase(case="c", code="x", text="one")]
    whole = points_hash(["a", "b"], refused)
    assert whole == points_hash(["b", "a"], [RefusedCase(case="c", code="x", text="other")])
    assert whole != points_hash(["a"], refused)
    assert whole != points_hash(["a", "b"], [RefusedCase(case="c", code="y", text="one")])
    assert whole != points_hash(["a", "b", "c"], [])
