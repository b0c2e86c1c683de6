"""The options that choose a part: what they read is where `harness.plan.parts` looks for it."""

import argparse
from pathlib import Path

from harness.commands.part_options import add_merge, add_part


def test_what_the_options_are_read_as():
    command = argparse.ArgumentParser()
    add_part(command)
    assert vars(command.parse_args([])) == {
        "shard": None,
        "durations_from": None,
        "time_budget": None,
        "only_changed": None,
        "known_failures": None,
    }
    args = command.parse_args(["--shard", "1/2", "--durations-from", "a", "--time-budget", "8m"])
    assert (args.shard, args.durations_from, args.time_budget) == ("1/2", Path("a"), "8m")


def test_merge_takes_folders():
    command = argparse.ArgumentParser()
    add_merge(command)
    assert command.parse_args(["a", "b"]).folders == [Path("a"), Path("b")]
