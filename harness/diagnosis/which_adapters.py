"""Find which other adapters, experts, halves or inputs give what adapters add to a product."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import operands
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_terms import of_product
from harness.record.diagnosis import NamedCause
from moe.formats import FORMATS
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.reference.adapters import AdapterTruth

NAME = "which_adapters"
WRONG_ROWS, RIGHT_ROWS = 64, 16  # at most
NARROW = ("bf16", "fp16")
SAME = 0.01  # relative distance at which a factor is taken for 1
PLAIN = ((0, 0), (1, 1))
# Of gate and up each: whose A (0: gate's) and whose B are multiplied.
PAIRINGS = {
    "with gate's B for up, and up's for gate": ((0, 1), (1, 0)),
    "with gate's A for up, and up's for gate": ((1, 0), (0, 1)),
    "with gate and up exchanged": ((1, 1), (0, 0)),
    "with gate's A for both halves": ((0, 0), (0, 1)),
    "with up's A for both halves": ((1, 0), (1, 1)),
    "with gate's B for both halves": ((0, 0), (1, 0)),
    "with up's B for both halves": ((0, 1), (1, 1)),
    "with gate's A and B for both halves": ((0, 0), (0, 0)),
    "with up's A and B for both halves": ((1, 1), (1, 1)),
}


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What adapters add to R rows. numbers, experts: [R] int64, adapter (-1: none) and expert.

    x: [R, I], the product's input. pairing: see PAIRINGS. rounded: the dtype to which x @ A is
    rounded, or None.
    """

    numbers: Tensor
    experts: Tensor
    x: Tensor
    pairing: tuple[tuple[int, int], ...] = PLAIN
    rounded: str | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known of a layer's adapters on a rank.

    columns: of the intermediate size, on this rank. local: its experts' ids, in the order of local
    ids. gathered: [G] int64, the adapter of each gathered row. top_k: slots of a gathered row.
    codes: [R, I], the input's codes without their scales, or None.
    """

    stage: str
    truth: AdapterTruth
    columns: slice
    local: Sequence[int]
    gathered: Tensor
    top_k: int
    gated: bool
    codes: Tensor | None = None

    @property
    def count(self) -> int:
        """Return the number of adapters."""
        return len(self.truth.scale)

    def added(self, applied: Applied) -> Tensor:
        """Return [R, C], what the adapters add to each row on this rank."""
        parts, places = [], []
        pairs = torch.stack([applied.numbers, applied.experts], dim=1)
        for number, expert in torch.unique(pairs, dim=0).tolist():
            rows = (pairs == pairs.new_tensor([number, expert])).all(dim=1).nonzero().flatten()
            product = self._product(max(number, 0), expert, applied, applied.x[rows])
            parts.append(product * (number >= 0))
            places.append(rows)
        return torch.cat(parts)[torch.cat(places).argsort()]

    def _product(self, number: int, expert: int, applied: Applied, x: Tensor) -> Tensor:
        """Return [r, C], what an adapter adds for rows x [r, I] of an expert."""
        a13, b13, a2, b2 = (t.float() for t in self.truth.of(number, expert))
        scale = self.truth.scale[number].float()

        def shrunk(a: Tensor) -> Tensor:
            inner = x @ a.T
            return inner if applied.rounded is None else on_grid(inner, applied.rounded)

        if self.stage != "gemm1":
            return scale * (shrunk(a2[:, self.columns]) @ b2.T)
        halves = applied.pairing if len(a13) > 1 else PLAIN[:1]
        return scale * torch.cat(
            [shrunk(a13[a]) @ b13[b][self.columns].T for a, b in halves], dim=1
        )


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield what gives the adapters' part of a wrong product; at most one statement."""
    known = applied_of(evidence)
    if known is not None:
        errors, setting, right = known
        cause = which_adapters(errors, setting, right.x, right.experts)
        if cause is not None:
            yield cause


def applied_of(evidence: Evidence) -> tuple[StageErrors, Setting, Applied] | None:
    """Return a wrong product, and what adapters add to its rows; None if they add nothing."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return None
    errors, handed = product
    if handed.subject.reference.adapters is None or not handed.has("adapters"):
        return None
    parts = operands(handed, errors.stage, errors.numbers)
    if not parts:
        return None
    order = torch.cat([rows for rows, _, _ in parts]).argsort()
    x = torch.cat([of_rows for _, of_rows, _ in parts])[order]
    setting, experts = _setting(handed, errors), _experts(handed, errors)
    return errors, setting, right_of(errors, setting, x, experts)


def right_of(errors: StageErrors, setting: Setting, x: Tensor, experts: Tensor) -> Applied:
    """Return what adapters should add to the rows. x: [R, I]. experts: [R] int64, global ids."""
    numbers = setting.gathered[errors.numbers // setting.top_k]
    return Applied(numbers=numbers, experts=experts, x=x)


def _experts(handed: Handed, errors: StageErrors) -> Tensor:
    return handed.global_ids(handed.ids.flatten()[errors.numbers])


def _setting(handed: Handed, errors: StageErrors) -> Setting:
    reference, case = handed.subject.reference, handed.subject.case
    assert reference.adapters is not None, "a layer with adapters has their truth"
    columns, codes = case.layout.intermediate_of(handed.rank, case.n), None
    if reference.act_format.grid != "model":
        is_first = errors.stage == "gemm1"
        rows = errors.numbers // handed.top_k if is_first else errors.numbers
        codes = handed.rows("input" if is_first else "second", rows)
    return Setting(
        stage=errors.stage,
        truth=reference.adapters,
        columns=slice(columns.start, columns.stop),
        local=handed.layer_spec.experts_of(handed.rank),
        gathered=handed.stages["adapters"].value.long(),
        top_k=handed.top_k,
        gated=reference.activation.gated,
        codes=codes,
    )


def which_adapters(
    errors: StageErrors, setting: Setting, x: Tensor, experts: Tensor
) -> NamedCause | None:
    """Return the cause, or None if no other adapters explain all rows.

    x: [R, I], the product's input in the rows. experts: [R] int64, their global ids.
    """
    if not bool(errors.actual.isfinite().all()):
        return None
    right = right_of(errors, setting, x, experts)
    base = errors.expected - setting.added(right)
    moved = [(*other, True) for other in others(setting, right, errors.numbers)]
    for text, applied, may_scale in (*moved, *((*other, False) for other in roundings(right))):
        change = setting.added(applied)
        factor = _factor(errors, base, change)
        if factor != 1 and not may_scale:
            continue
        residual = None if factor is None else errors.left_by(base + factor * change)
        if factor is not None and residual is not None and residual <= MAX_RESIDUAL:
            times = "" if factor == 1 else f", times {factor:.3g}"
            cause = f"{errors.place} adapters are applied {text}{times}"
            return NamedCause(name=NAME, cause=cause, residual=residual)
    return None


def _factor(errors: StageErrors, base: Tensor, change: Tensor) -> float | None:
    """Return by which factor the change gives the values, by least squares; None for no change."""
    weight = errors.tolerance.double().square().reciprocal()
    size = float((weight * change.double().square()).sum())
    if size == 0:
        return None
    factor = float((weight * change.double() * (errors.actual - base).double()).sum()) / size
    return 1.0 if abs(factor - 1) <= SAME else factor


def others(setting: Setting, right: Applied, flat: Tensor) -> Iterator[tuple[str, Applied]]:
    """Yield other ways to apply the adapters, in words. flat: [R], the rows' numbers."""
    for text, pairing in PAIRINGS.items() if setting.stage == "gemm1" and setting.gated else ():
        yield text, dataclasses.replace(right, pairing=pairing)
    if setting.codes is not None:
        text = "to the codes of the input, without their scales"
        yield text, dataclasses.replace(right, x=setting.codes)
    tokens = flat // setting.top_k
    yield from _other_numbers(right, setting.gathered, tokens, flat, setting.count)
    yield from _other_experts(right, setting.local)
    yield from _other_pairs(right, setting.local, setting.count)


def roundings(right: Applied) -> Iterator[tuple[str, Applied]]:
    """Yield roundings of the input and of what is between both matrices, in words."""
    for dtype in NARROW:
        yield f"with x @ A rounded to {dtype}", dataclasses.replace(right, rounded=dtype)
        x = on_grid(right.x, dtype)
        yield f"to the input, rounded to {dtype}", dataclasses.replace(right, x=x)
    x = on_grid(right.x.clamp(-448, 448), FORMATS["fp8_tensor"])
    yield "to the input, rounded to e4m3", dataclasses.replace(right, x=x)


def _other_numbers(
    right: Applied, numbers: Tensor, tokens: Tensor, flat: Tensor, count: int
) -> Iterator[tuple[str, Applied]]:
    """Yield other adapters of each row. numbers: [G], of all gathered rows."""
    has = right.numbers >= 0
    texts = {
        "as those of the gathered row before": numbers.roll(1)[tokens],
        "as those of the gathered row after": numbers.roll(-1)[tokens],
        "as those of the gathered row with the number row * k + slot": numbers[flat % len(numbers)],
        "as those of the first gathered row": numbers[:1].expand_as(tokens),
        "as those of the next adapter": torch.where(has, (right.numbers + 1) % count, -1),
        "as those of the adapter before": torch.where(has, (right.numbers - 1) % count, -1),
        "as those of the last adapter for tokens without one, too": torch.where(
            has, right.numbers, count - 1
        ),
        "as those of the first adapter for tokens without one, too": right.numbers.clamp(min=0),
    }
    for adapter in range(count):
        texts[f"as those of adapter {adapter} for all tokens that have one"] = torch.where(
            has, adapter, -1
        )
    for text, other in texts.items():
        if not torch.equal(other, right.numbers):
            yield text, dataclasses.replace(right, numbers=other)


def _other_experts(right: Applied, local: Sequence[int]) -> Iterator[tuple[str, Applied]]:
    """Yield other experts of this rank. local: its experts' ids, in the order of local ids."""
    table = torch.tensor(local, device=right.experts.device)
    at = (right.experts[:, None] == table).int().argmax(dim=1)
    texts = {"before": table[(at - 1) % len(table)], "after": table[(at + 1) % len(table)]}
    for side, other in texts.items():
        yield f"as those of the expert {side}", dataclasses.replace(right, experts=other)
    text = f"as those of expert {local[0]}, the rank's first"
    yield text, dataclasses.replace(right, experts=table[:1].expand_as(at))


def _other_pairs(right: Applied, local: Sequence[int], count: int) -> Iterator[tuple[str, Applied]]:
    """Yield what other numbers of pairs than adapter * experts + expert read."""
    table = torch.tensor(local, device=right.experts.device)
    at, experts = (right.experts[:, None] == table).int().argmax(dim=1), len(local)
    text = "by the pair number expert * adapters + adapter, not adapter * experts + expert"
    for pair in (at * count + right.numbers, at + right.numbers):
        pair = pair.clamp(min=0)
        yield (
            text,
            dataclasses.replace(
                right,
                numbers=torch.where(right.numbers >= 0, pair // experts % count, -1),
                experts=table[pair % experts],
            ),
        )
        text = "by the pair number adapter + expert, not adapter * experts + expert"
