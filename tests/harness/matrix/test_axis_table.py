"""docs/axes.md is made from the axes."""

from __future__ import annotations

from pathlib import Path

from harness.matrix.axis_table import page
from harness.matrix.case import AXES

ROOT = Path(__file__).parents[3]


def test_the_committed_page_is_the_one_that_is_made() -> None:
    remedy = "run: python -m harness.matrix.axis_table > docs/axes.md"
    assert (ROOT / "docs/axes.md").read_text() == page(), remedy


def test_every_axis_has_one_row_with_its_rule_and_default() -> None:
    rows = {line.split("`")[1]: line for line in page().splitlines() if line.startswith("| `")}
    assert set(rows) == {a.token + ":" * (a.kind != "bool") for a in AXES.values()}
    for token, cells in (
        ("n:", "| `shapes` | 1 or more |  |  |"),
        ("seed:", "| `seed` | 0 or more | `0` |  |"),
        ("tp:", "| `layouts` | 1 or more | `1` | agree |"),
        ("ep", "| `layouts` | `true`, `false` | `false` | agree |"),
        ("dtype:", "| `dtype` | `bf16`, `fp16`, `f32` | `bf16` |  |"),
        ("router:", "| `router` | a row of `moe.routers` | `softmax` |  |"),
    ):
        assert rows[token].startswith(f"| `{token}` {cells} {AXES_BY_TOKEN[token.strip(':')]} |")


AXES_BY_TOKEN = {axis.token: axis.description for axis in AXES.values()}
