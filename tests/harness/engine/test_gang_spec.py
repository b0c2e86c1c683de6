"""Ranks get all that their gang's description has for them."""

from dataclasses import asdict

from harness.engine.gang_spec import GangSpec


def test_ranks_get_what_their_gang_is_described_by():
    spec = GangSpec(
        world_size=2,
        device="cuda",
        transport="nccl",
        executor="some.module:function",
        options={"folder": "here"},
        ranks_at_once=6,
        devices=(4, 6),
        device_ranks=3,
    )
    sent = asdict(spec.init)
    described = {name: value for name, value in asdict(spec).items() if name in sent}
    assert {name: sent[name] for name in described} == {**described, "devices": [4, 6]}
    of_the_controller = {"world_size", "preload", "place"}  # where it starts which processes
    assert described.keys() == asdict(spec).keys() - of_the_controller
