"""Write a model in the language of PICT, which other generators of covering arrays read as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.matrix.covering.model import Literals, Model


def pict(
    model: Model,
    exclusions: Iterable[Literals],
    submodels: Sequence[tuple[Sequence[str], int]] = (),
    comments: Sequence[str] = (),
) -> str:
    """Return parameters, submodels and constraints.

    exclusions: literals that no row has together. submodels: names of factors, and a strength.
    """
    lines = [f"# {comment}" for comment in comments]
    lines += [f"{n}: {', '.join(v)}" for n, v in zip(model.names, model.values, strict=True)]
    lines += [f"{{ {', '.join(names)} }} @ {strength}" for names, strength in submodels]
    lines += sorted({_constraint(model, literals) for literals in exclusions})
    return "\n".join(lines) + "\n"


def _constraint(model: Model, literals: Literals) -> str:
    """Return `IF [a] = "x" THEN [b] <> 2;`."""
    *conditions, last = literals
    forbidden = _term(model, last, "<>")
    if not conditions:
        return f"{forbidden};"
    terms = " AND ".join(_term(model, literal, "=") for literal in conditions)
    return f"IF {terms} THEN {forbidden};"


def _term(model: Model, literal: int, relation: str) -> str:
    """Return `[name] = value`; a value is quoted unless all values of its factor are numbers."""
    factor = model.factor_of[literal]
    value = model.values[factor][literal - model.literals[factor].start]
    is_numeric = all(text.isdecimal() for text in model.values[factor])
    shown = value if is_numeric else f'"{value}"'
    return f"[{model.names[factor]}] {relation} {shown}"
