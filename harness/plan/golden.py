"""Write what the oracle decides and what plans refuse, chip by chip, so that a change is a diff.

`make golden` (`python -m harness.plan.golden`) writes tests/golden/*.txt anew; tests compare. The
files depend on this repository only: chips are planned for, and packages count as there or not.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.matrix.covering.space import Space
from harness.matrix.expand import expand
from harness.matrix.load import find, load
from harness.matrix.select import parse
from harness.plan import machine, suites
from harness.plan.decided import DecidingJudge
from harness.plan.plan import make_plan
from harness.plan.refusals import Judge
from moe import families
from moe.errors import MoEError
from moe.oracle import ABSENT, AUTO, DECLARED
from moe.quant import QUANT

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from harness.matrix.expand import Choose
    from harness.matrix.schema import Axes, Block
    from harness.plan.machine import Machine

CHIPS = ("cpu", "cuda_sm90", "cuda_sm100", "rocm_gfx942", "rocm_gfx950")
FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden"
_PLAIN = MoETestConfig(m=32, n=512, k=512, num_experts=8, top_k=2, experts=AUTO)
_LAYOUTS: tuple[dict[str, int | bool], ...] = (
    {},
    {"tp_size": 2},
    {"tp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True, "sequence_parallel": True},
    {"dp_size": 2},
    {"dp_size": 2, "use_ep": True},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
    {"pcp_size": 2, "tp_size": 2, "use_ep": True, "moe_tp_size": 2},
)
OF_PACKAGES = ("tuned_tiles",)  # suites that depend on what is installed
_SEARCHED = 1000  # points of a block out of which cases are chosen here, too
_LETTERS = len("rocm_gfx942")


def is_own() -> bool:
    """Return whether all rows are this project's: rows of other packages change the files."""
    tables = (table for _, table in families.tables())
    return all({*table.rows} == {row.name for row in table.built_in} for table in tables)


def machine_for(name: str) -> Machine:
    """Return a machine with a chip; Triton, a dependency, interprets on a CPU."""
    planned = machine.planned_for(name)
    if not planned.platform.interpreted:
        return planned
    chip = replace(planned.platform, features=planned.platform.features | {"triton"})
    return replace(planned, platform=chip)


def decisions() -> str:
    """Return a line for each chip, quantization method and group of layouts that decide alike.

    The backend that is chosen if the packages that rows need are there, and without them.
    """
    lines = ["chip quant layouts: with every package | without optional packages"]
    for chip in CHIPS:
        judge = Judge(machine_for(chip))
        for row in QUANT.built_in:
            by_choice: dict[str, list[str]] = {}
            for layout in _LAYOUTS:
                case = _PLAIN.replace(quant=row.name, **layout)
                by_choice.setdefault(_choice(judge, case), []).append(_layout_name(case))
            for choice, names in by_choice.items():
                layouts = "all" if len(names) == len(_LAYOUTS) else ",".join(names)
                lines.append(f"{chip:<{_LETTERS}} {row.name} {layouts}: {choice}")
    return "\n".join(lines) + "\n"


def _choice(judge: Judge, case: MoETestConfig) -> str:
    """Return `with | without`, or the code with which the case itself is refused."""
    try:
        _, reason = judge(case.replace(experts="torch_loop"))
    except MoEError as error:
        return f"error {error}"
    if reason is not None:
        return f"refused {reason.code}"
    winners = (judge.explain(case, packages_are).winner for packages_are in (DECLARED, ABSENT))
    return " | ".join(str(winner) for winner in winners)


def _layout_name(case: MoETestConfig) -> str:
    """Return the layout's part of the case's id; `one` for one rank."""
    one_rank = {"dp_size": 1, "pcp_size": 1, "tp_size": 1, "moe_tp_size": 1}
    one_rank["expert_dp_size"] = 1
    plain = case.replace(**one_rank, use_ep=False, sequence_parallel=False, quant="none")
    tokens = case.replace(quant="none").id.removeprefix(plain.id)
    return tokens.lstrip("-") or "one"


def refusals() -> str:
    """Return a line for each suite, chip and reason code: cases that run, and refused ones."""
    config, choices = load(find(None)), _Choices()
    lines = ["suite chip code: cases"]
    for name, suite in config.suites.items():
        if name in OF_PACKAGES:
            lines.append(f"{name}: its tactics are files of installed packages")
            continue
        if any(_is_large(block, config.defaults) for block in suite.blocks):
            lines.append(f"{name}: its cases are searched for, see `python -m harness coverage`")
            continue
        for chip in CHIPS:
            planned = machine_for(chip)
            cases = expand(config, name, choices.by(DecidingJudge(planned)))
            plan = make_plan(cases, planned)
            lines.append(f"{name} {chip} runs: {len(plan.cases)}")
            lines += _of_suite(name, chip, plan.refused.counts())
    return "\n".join(lines) + "\n"


class _Choices:
    """Choose the cases of blocks, each once for all chips that refuse the same of its points."""

    def __init__(self) -> None:
        self._chosen: dict[object, tuple[MoETestConfig, ...]] = {}

    def by(self, judge: DecidingJudge) -> Choose:
        """Return what chooses for a chip. judge: that of the chip."""

        def choose(
            block: Block, defaults: Axes, before: Iterator[MoETestConfig]
        ) -> tuple[MoETestConfig, ...]:
            earlier = tuple(before)
            space = Space.of(block, defaults)
            refused = tuple(map(judge.refused, space.cases()))
            running = [case for case in earlier if judge.refused(case) is None]
            known = frozenset(map(space.values_of, running))
            has_interpreter = block.least_work and judge.machine.platform.interpreted
            key = block.model_dump_json(), refused, known, has_interpreter
            if key not in self._chosen:
                self._chosen[key] = tuple(suites.chosen(block, space, judge, earlier))
            return self._chosen[key]

        return choose


def _is_large(block: Block, defaults: Axes) -> bool:
    """Return whether the search for a block's cases takes long on five chips."""
    return not parse(block.select).is_full and Space.of(block, defaults).size > _SEARCHED


def _of_suite(suite: str, chip: str, codes: Counter[str]) -> Iterator[str]:
    return (f"{suite} {chip} {code}: {codes[code]}" for code in sorted(codes))


FILES = {"decisions.txt": decisions, "refusals.txt": refusals}


def write(folder: Path = FOLDER) -> None:
    """Write all files anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text_of in FILES.items():
        (folder / name).write_text(text_of())


if __name__ == "__main__":
    write()
