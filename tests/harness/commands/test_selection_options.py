"""The options that select cases: what they read is where the rooms of the plan look for it."""

import argparse

import pytest

from harness.commands.selection_options import add_cases, add_matrix, add_platform, add_require


@pytest.fixture
def command():
    command = argparse.ArgumentParser()
    for add in (add_matrix, add_cases, add_platform, add_require):
        add(command)
    return command


def test_nothing_is_selected_unless_it_is_asked_for(command):
    read = vars(command.parse_args([]))
    assert {name for name, value in read.items() if value} == set()
    assert {"suite", "config", "case", "last_failed", "model", "trace", "keep"} <= read.keys()


def test_each_exclusion_keeps_its_place_beside_its_reason(command):
    line = ["--exclude", "tp", "--reason", "slow", "--exclude", "ep", "--reason", "open bug"]
    args = command.parse_args(line)
    assert list(zip(args.exclude, args.reason, strict=True)) == [("tp", "slow"), ("ep", "open bug")]


def test_a_chip_with_its_number_of_devices(command):
    args = command.parse_args(["--platform", "cuda_sm90", "--devices", "4", "--suite", "ci"])
    assert (args.platform, args.devices, args.suite) == ("cuda_sm90", 4, "ci")
