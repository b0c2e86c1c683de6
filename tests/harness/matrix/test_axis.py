"""What is declared of an axis holds, and a new one needs no file but that of the case."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import strategies
from harness.matrix.axis import Axis, value_error
from harness.matrix.case import AXES, MoETestConfig
from harness.record.cross_case import content_key
from moe.families import FAMILIES

ROOT = Path(__file__).parents[3]
PLAIN = MoETestConfig(m=1, n=64, k=64, num_experts=4, top_k=2, experts="torch_loop")


VARIED = [name for name, axis in AXES.items() if len(axis.choices) != 1]


@pytest.fixture(params=AXES)
def axis(request: pytest.FixtureRequest) -> Axis:
    return AXES[request.param]


def test_tokens_are_unique() -> None:
    assert len({axis.token for axis in AXES.values()}) == len(AXES)


def test_values_that_are_drawn_and_tried_are_values_of_the_axis(axis: Axis) -> None:
    tried = (*axis.random_values, *axis.simpler_values, *([] if axis.required else [axis.default]))
    assert [value_error(axis, value) for value in tried if value_error(axis, value)] == []


def test_a_family_is_one_of_those_listed(axis: Axis) -> None:
    assert axis.family is None or axis.family in FAMILIES


def changed(axis: Axis) -> MoETestConfig:
    """PLAIN with another value of the axis."""
    now = getattr(PLAIN, axis.name)
    values = {
        "bool": not now,
        "int": 7,
        "float": 2.5,
        "str": next(iter([*axis.choices[1:], "another"])),
    }
    return PLAIN.replace(**{axis.name: values[axis.kind]})


@pytest.mark.parametrize("name", VARIED)
def test_outputs_are_compared_across_the_axes_that_say_so(name: str) -> None:
    axis = AXES[name]
    assert (content_key(changed(axis)) == content_key(PLAIN)) == axis.outputs_agree


def test_layouts_members_tokens_and_call_modes_are_those_that_agree() -> None:
    assert {axis.name for axis in AXES.values() if axis.outputs_agree} == {
        *("m", "tokens", "experts", "all2all"),
        *("dp_size", "tp_size", "use_ep", "sequence_parallel", "call", "roundup"),
        *("shared_fused", "chunk", "capacity", "pcp_size", "moe_tp_size", "skew"),
        *("expert_dp_size", "tactic"),
        *("eplb", "redundant", "eplb_window", "eplb_move"),
    }


def test_no_field_is_drawn_twice_or_never() -> None:
    assert set(strategies.TOGETHER) <= set(AXES)
    assert [name for name in AXES if name not in strategies.TOGETHER] == [
        "shared_experts",
        "renormalize",
        "expert_bias",
        "roundup",
        "chunk",
        "capacity",
        "tactic",
        "skew",
        "call",
    ]


# A new axis, in a copy of the project in which one declaration stands in the case's file.

DECLARED = """\
    clock: str = axis(
        "clock", "speed of the clock", default="slow", choices=("slow", "fast"), outputs_agree=True
    )
"""
MATRIX = """\
version: 1
suites:
  smoke:
    description: small
    blocks:
      - {shapes: [[1, 64, 64]], num_experts: [4], top_k: [2], experts: [torch_loop], clock: CLOCK}
"""
ASKED = """
import dataclasses, json, sys
from pathlib import Path

from harness.commands.fuzz_shrink import batch
from harness.commands.fuzz_simpler import simpler
from harness.commands.fuzz_space import space_for
from harness.errors import CaseError, ConfigError
from harness.matrix import axis_table
from harness.matrix.case import MoETestConfig
from harness.matrix.expand import expand
from harness.matrix.load import load
from harness.matrix.schema import schema
from harness.plan import machine
from harness.record.cross_case import content_key

def error(function, *args):
    try:
        function(*args)
    except (CaseError, ConfigError) as error:
        return str(error)

plain = MoETestConfig.from_id(sys.argv[1])
fast = MoETestConfig.from_id(sys.argv[1] + "-clock:fast")
here = dataclasses.replace(machine.planned_for("cpu"), planned=False)
space = space_for(here, "torch_loop")
print(json.dumps({
    "id": fast.id,
    "value": error(MoETestConfig.from_id, sys.argv[1] + "-clock:fst"),
    "points": [p.clock for p in expand(load(Path("good.yaml")), "smoke")],
    "file": error(load, Path("bad.yaml")),
    "schema": json.loads(schema())["definitions"]["Axes"]["properties"]["clock"],
    "drawn": sorted({case.clock for case in batch(space, 0, 0)}),
    "simpler": [c.clock for c in simpler(space, fast) if c.clock != "fast"],
    "compared": content_key(fast) == content_key(plain),
    "page": [line for line in axis_table.page().splitlines() if "clock" in line],
}))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What a process of such a copy says of the axis `clock`."""
    copy = tmp_path_factory.mktemp("copy")
    for package in ("harness", "moe"):
        shutil.copytree(
            ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    source = copy / "harness/matrix/case.py"
    before, seed, after = source.read_text().partition("    seed: int = axis(")
    source.write_text(before + DECLARED + seed + after)
    (copy / "good.yaml").write_text(MATRIX.replace("CLOCK", "[fast, slow]"))
    (copy / "bad.yaml").write_text(MATRIX.replace("CLOCK", "[fst]"))
    command = [sys.executable, "-c", ASKED, PLAIN.id]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("id", f"{PLAIN.id}-clock:fast"),
        ("points", ["fast", "slow"]),
        ("drawn", ["fast", "slow"]),
        ("simpler", ["slow"]),
        ("compared", True),
        ("page", ["| `clock:` | `clock` | `slow`, `fast` | `slow` | agree | speed of the clock |"]),
        (
            "schema",
            {
                "items": {"enum": ["slow", "fast"], "type": "string"},
                "minItems": 1,
                "type": "array",
                "description": "speed of the clock",
                "title": "Clock",
            },
        ),
    ],
)
def test_one_declaration_makes_an_axis(
    asked: str, answer: object, extended: dict[str, object]
) -> None:
    assert extended[asked] == answer


@pytest.mark.parametrize("asked", ["value", "file"])
def test_a_new_axis_has_its_errors(asked: str, extended: dict[str, object]) -> None:
    text = str(extended[asked])
    assert "clock must be one of slow, fast, not 'fst'" in text
    assert asked == "value" or "did you mean 'fast'?" in text
