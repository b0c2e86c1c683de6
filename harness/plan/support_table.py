"""Make docs/support.md, and the table of README.md under "What is supported", from the rows.

`python -m harness.plan.support_table > docs/support.md` writes the page. Only the rows of this
project count, so that the output depends neither on installed packages nor on the machine.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.platforms import PLATFORMS
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import DTYPE_BYTES, LayerSpec, Needs, experts_refusal, resolve

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moe.quant import QuantSpec
    from moe.registry import Registry
    from moe.spec import MemberSpec, Platform

_PAGE = """# What is supported
Rows declare this in `moe/`; `python -m harness.plan.support_table` prints the page. The columns of
the quantization methods (`none`: unquantized) name the platforms on which an experts backend
supports the method. "all" stands for all platforms of the last table; an empty cell is refused,
with a reason code. `python -m harness doctor` shows which packages and devices a machine has.
"""
ALL = "all"  # a cell: on each platform
_PROBLEM = LayerSpec(m=8, hidden=256, intermediate=256, num_experts=8, top_k=2)


def page() -> str:
    """Return docs/support.md."""
    return f"{_PAGE}\n{tables()}"


def families() -> str:
    """Return the table of README.md as Markdown: the names of the rows of each family."""
    return _markdown(_families()) + "\n"


def tables(experts: Registry[MemberSpec] = EXPERTS) -> str:
    """Return both tables as Markdown: experts backends by quantization, then all families."""
    methods = QUANT.built_in
    head = ["experts", *(f"`{method.name}`" for method in methods), "dtypes", "activations"]
    body = [
        [
            f"`{row.name}`",
            *(_platforms(row, method) for method in methods),
            _words(_dtypes(row)),
            _words(_activations(row)),
        ]
        for row in experts.built_in
    ]
    return f"{_markdown([head, *body])}\n\n{_markdown(_families())}\n"


def _families() -> list[list[str]]:
    """Return the names of the rows of each family."""
    return [
        ["family", "members"],
        ["experts", _names(row.name for row in EXPERTS.built_in)],
        ["quantization", _names(row.name for row in QUANT.built_in)],
        ["platforms", _names(row.name for row in PLATFORMS.built_in)],
        ["all2all", ", ".join(_with_limit(row) for row in ALL2ALL.built_in)],
        ["routers", _names(row.name for row in ROUTERS.built_in)],
        ["activations", _names(row.name for row in ACTIVATIONS.built_in)],
    ]


def _platforms(row: MemberSpec, method: QuantSpec) -> str:
    """Return the platforms on which a backend takes a method's formats; empty for no platform."""
    layer_spec = replace(_PROBLEM, scheme=method.scheme, dtype=_dtypes(row)[0])
    chips = _chips()
    names = [
        chip.name
        for chip in chips
        if not experts_refusal(_rows_only(row.needs), layer_spec, chip)
        and not _rows_only(method.needs).refusal(layer_spec, chip)
    ]
    return ALL if len(names) == len(chips) else _words(names)


def _dtypes(row: MemberSpec) -> list[str]:
    """Return the dtypes that a backend takes."""
    return [dtype for dtype in DTYPE_BYTES if dtype in row.needs.dtypes]


def _activations(row: MemberSpec) -> list[str]:
    """Return the activation functions that a backend computes."""
    names = [activation.name for activation in ACTIVATIONS.built_in]
    return [name for name in names if name in row.needs.activation_functions]


def _chips() -> list[Platform]:
    """Return the platforms; Triton, a dependency, counts as installed if it interprets."""
    chips: list[Platform] = [resolve(row.target)() for row in PLATFORMS.built_in]
    return [
        replace(chip, features=chip.features | {"triton"}) if chip.interpreted else chip
        for chip in chips
    ]


def _rows_only(needs: Needs) -> Needs:
    """Return the needs without those that only an installation can answer."""
    return replace(needs, packages=(), probe=None)


def _with_limit(row: MemberSpec) -> str:
    limit = row.needs.max_world
    return f"`{row.name}`" + (f" (world size {limit})" if limit else "")


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _words(words: Iterable[str]) -> str:
    return ", ".join(words)


def _markdown(rows: list[list[str]]) -> str:
    """Return rows of cells as a table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    print(page(), end="")
