"""Devices as people write them, and what each job is told."""

import shlex

import pytest

from harness.commands.options import parse
from harness.errors import UsageError
from harness.plan.pipelines.targets import CHIPS, check_chip, targets
from moe.platforms import PLATFORMS
from tests.harness.plan.pipelines.requests import request


def test_every_device_is_a_platform_of_the_table():
    assert set(CHIPS.values()) <= set(PLATFORMS.rows)


def test_a_list_of_devices():
    h100, mi355, cpu = targets("h100:2, mi355,cpu")
    assert (h100.key, h100.title, h100.family) == ("h100-2", "2 H100s", "cuda")
    assert (mi355.count, mi355.title, mi355.family) == (1, "1 MI355", "rocm")
    assert (cpu.key, cpu.title, cpu.count) == ("cpu", "CPU", 0)


def test_what_is_no_list_of_devices():
    for text, message in (
        ("", "takes a list such as h100:2,mi355:2,cpu, not ''"),
        ("h100:x", "not 'h100:x'"),
        ("h10:2", "no device is called 'h10', did you mean 'h100'"),
        ("h100:9", "a machine has 1 to 8 GPUs, not 'h100:9'"),
        ("cpu:4", "a CPU has no number"),
        ("h100:2,h100:2", "names h100-2 twice"),
    ):
        with pytest.raises(UsageError) as raised:
            targets(text)
        assert message in str(raised.value)
    with pytest.raises(UsageError, match="--optional: no device is called 'x'"):
        check_chip("x", "--optional")


def test_the_command_of_a_job_is_one_of_the_harness():
    asked = request(require=("experts=triton", "h100/quant=fp8_block"), durations_from="old run")
    h100, mi355 = asked.targets
    words = shlex.split(asked.run(h100, "runs/x", "auto"))
    args = parse(words[words.index("harness") + 1 :])
    assert (args.suite, args.shard, str(args.durations_from)) == ("ci", "auto", "old run")
    assert args.require == ["cuda_sm90", "devices=2", "experts=triton", "quant=fp8_block"]
    assert "quant" not in asked.run(mi355, "runs/x")
    assert asked.run(mi355, "runs/x").startswith("PYTHONPATH=. python3 -m harness run")
    assert asked.set_up(mi355) == "make setup PYTHON=python3"
    assert asked.set_up(h100) == "make setup EXTRAS=cuda"
    assert (
        request("cpu", extras="subjects").set_up(targets("cpu")[0]) == "make setup EXTRAS=subjects"
    )
