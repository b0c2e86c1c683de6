"""What a planted mistake is: a row with its class, where it was seen, and how to plant it.

The seed of its case follows from a mistake's name: so every mistake has a case id of its own, a
rank knows from the id which mistake to plant, and a new row leaves the data of all others as they
are.
"""

from __future__ import annotations
import __future__

import inspect
import linecache
import sys
import textwrap
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from harness.matrix.case import MoETestConfig

Plant = Callable[[pytest.MonkeyPatch], None]
NO_CAUSE = "no known cause"
SAYS = "says:"  # before words that a message has, where it names the cause without a hypothesis


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """kind: its class of bug. source: a public report of one of that class."""

    name: str
    kind: str
    source: str
    case: MoETestConfig
    plant: Plant
    seconds: float  # that its case may take
    # Names of hypotheses, or SAYS; any of them is right: two may give the very same output here.
    causes: tuple[str, ...]


MISTAKES: list[Mistake] = []
ON_GPU: list[Mistake] = []  # which other machines refuse


def mistake(
    kind: str,
    source: str,
    *causes: str,
    seconds: float = 120.0,
    table: list[Mistake] = MISTAKES,
    **fields: Any,
) -> Callable[[Plant], Plant]:
    """Register a function as a mistake in a small case; `fields` change that case.

    seconds: its time limit; a mistake that hangs costs as much. table: where to.
    """

    def register(plant: Plant) -> Plant:
        name = plant.__name__
        row = Mistake(
            name=name,
            kind=kind,
            source=source,
            case=small(seed=seed_of(name), **fields),
            plant=plant,
            seconds=seconds,
            causes=causes or (NO_CAUSE,),
        )
        table.append(row)
        return plant

    return register


def seed_of(name: str) -> int:
    """The seed of a mistake's case: above 0, which plants none."""
    return 1 + zlib.crc32(name.encode()) % 999_999_937


def planted_by(seed: int) -> Plant:
    """What plants the mistake whose case has this seed."""
    (plant,) = [m.plant for m in (*MISTAKES, *ON_GPU) if m.case.seed == seed]
    return plant


def small(**fields: Any) -> MoETestConfig:
    """A case of 8 tokens and 4 experts; torch_grouped serves it unless it is quantized."""
    plain: dict[str, Any] = {"m": 8, "n": 64, "k": 128, "num_experts": 4, "top_k": 2}
    served = "torch_grouped" if fields.get("quant", "none") == "none" else "torch_loop"
    return MoETestConfig(**{**plain, "experts": served, **fields})


def around(patch: pytest.MonkeyPatch, owner: Any, name: str, change: Callable[..., Any]) -> None:
    """Replace `owner.name` by `change(original, *arguments)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kw: change(original, *args, **kw))


def edited(patch: pytest.MonkeyPatch, owner: Any, name: str, old: str, new: str) -> None:
    """Replace a kernel or function of a module or class by one with another text.

    `new` takes the place of the only `old`. The modules that import the kernel get the edited one,
    too.
    """
    original = inspect.getattr_static(owner, name)
    source = textwrap.dedent(inspect.getsource(getattr(original, "fn", original)))
    assert source.count(old) == 1, f"{source.count(old)} of {old!r} in {name}"
    text, file = source.replace(old, new), f"<{name} edited>"
    lines = text.splitlines(keepends=True)
    linecache.cache[file] = (len(text), None, lines, file)  # Triton reads a kernel's source
    module = owner if inspect.ismodule(owner) else sys.modules[owner.__module__]
    namespace = dict(vars(module))
    flags = __future__.annotations.compiler_flag
    exec(compile(text, file, "exec", flags=flags), namespace)
    patch.setattr(owner, name, namespace[name])
    for loaded in [m for n, m in sys.modules.items() if n.startswith("moe.")]:
        if vars(loaded).get(name) is original:
            patch.setattr(loaded, name, namespace[name])
