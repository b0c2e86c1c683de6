"""Find codes of weights that stand for others: by a mask, a sign or a table that is wrong.

A product is the sum over codes of how often each stands beside its input. What each code is read
as, in all columns or in some places of a word or a step, is solved for from a few columns; the
weights that it gives must then explain all of them.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_terms import of_product
from harness.diagnosis.which_weights import RIGHT_ROWS, WRONG_ROWS, multiplied
from harness.diagnosis.wrong_rows import spread
from harness.record.diagnosis import NamedCause
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from harness.diagnosis.weight_codes import Codes
    from harness.diagnosis.which_weights import Multiplied
    from moe.formats.format import Format

NAME = "which_code_values"
COLUMNS = 128  # of the product, from which it is solved for
MOST_UNKNOWN = 320  # codes in all places
ENOUGH = 4  # elements for each unknown
SURE = 1.0  # times the error of a code, beyond which it surely is another
SAME = 0.02  # relative distance at which two factors are the same
FEW = 8  # codes that are listed
PERIODS = (2, 4, 8, 16, 32, 64, 128, 256)  # columns of a word or a step
PARTS = (2, 4, 8)  # of a word or a step


@dataclass(frozen=True, kw_only=True)
class Places:
    """A division of the inner dimension. of_column: [I] int64, below `count`.

    period, width: column c is in place c % period // width.
    """

    of_column: Tensor
    count: int
    period: int = 1
    width: int = 1

    def text(self, name: str, place: int) -> str:
        """Return which columns a place has, as the end of a clause; "" if it has all."""
        if self.count == 1:
            return ""
        start = place * self.width
        end = f" to {start + self.width - 1}" if self.width > 1 else ""
        return f" where {name} % {self.period} is {start}{end}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """What codes are read as. fmt: theirs. codes: [V], own: [V], what they should be read as.

    values, error: [V, P], what they are read as in each place, and the most that this is off.
    """

    fmt: Format
    codes: Tensor
    values: Tensor
    error: Tensor

    @property
    def own(self) -> Tensor:
        """Return [V, 1], what the codes should be read as: integers are clamped."""
        return self.codes.clamp(self.fmt.lowest, self.fmt.top)[:, None]

    @property
    def changed(self) -> Tensor:
        """Return [V, P] bool, codes that are surely read as others."""
        return (self.values - self.own).abs() > SURE * self.error

    @property
    def right(self) -> Tensor:
        """Return [V, P] bool, codes other than 0 that are known to be read as what they are."""
        return ~self.changed & (self.error < 0.5) & (self.own != 0)

    def in_codes(self) -> Tensor:
        """Return [V, P], what the codes are read as, as codes of the format."""
        near = self.values.round() if _has_integers(self.fmt) else on_grid(self.values, self.fmt)
        return torch.where(self.changed, near, self.own) + 0.0  # no -0


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield which codes of a wrong product's weights stand for others; at most one statement."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is not None:
        errors, handed = product
        yield from which_code_values(errors, multiplied(handed, errors))


def which_code_values(errors: StageErrors, given: Sequence[Multiplied]) -> list[NamedCause]:
    """Return the statement, or none, about the codes of all experts' weights."""
    fmt = given[0].codes.fmt if given else None
    if fmt is None or not bool(errors.actual.isfinite().all()):
        return []
    codes = torch.unique(torch.cat([keys_of(one.codes).flatten() for one in given]))
    for places in places_of(given[0].x.shape[1], codes.device):
        if len(codes) * places.count > MOST_UNKNOWN:
            break
        table = solved(errors, given, codes, places, fmt)
        if table is None or not tells_more(table):
            continue
        residual = _left(errors, given, table, places)
        if residual is not None and residual <= MAX_RESIDUAL:
            name = "k" if errors.stage == "gemm1" else "n"
            text = f"{errors.place} the weights {_text(table, places, name)}"
            return [NamedCause(name=NAME, cause=text, residual=residual)]
    return []


def _has_integers(fmt: Format) -> bool:
    return fmt.is_integer or fmt.zero_point


def keys_of(codes: Codes) -> Tensor:
    """Return [C, I], the codes; integers as they were rounded, before they were clamped."""
    is_integer = codes.fmt is not None and _has_integers(codes.fmt)
    return codes.ratio.round() if is_integer else codes.codes


def places_of(inner: int, device: torch.device) -> Iterator[Places]:
    """Yield divisions of the inner dimension, the coarsest first: words of codes, and steps."""
    number = torch.arange(inner, device=device)
    yield Places(of_column=torch.zeros_like(number), count=1)
    for parts, period in itertools.product(PARTS, PERIODS):
        width = period // parts
        if width and width < inner:
            at = number % period // width
            yield Places(of_column=at, count=parts, period=period, width=width)


def solved(
    errors: StageErrors,
    given: Sequence[Multiplied],
    codes: Tensor,
    places: Places,
    fmt: Format,
) -> Table | None:
    """Solve for what each code [V] is read as, by least squares; None for too few elements."""
    count = len(codes) * places.count
    columns = spread(torch.arange(errors.actual.shape[1], device=codes.device), COLUMNS)
    if sum(len(one.rows) for one in given) * len(columns) < ENOUGH * count:
        return None
    gram = torch.zeros((count, count), dtype=torch.float64, device=codes.device)
    right = gram.new_zeros(count)
    for one in given:
        noise = errors.noise[one.rows][:, columns].double()
        change = (errors.actual - errors.expected)[one.rows][:, columns].double() / noise
        terms = _terms(one, codes, places, columns).double() / noise.flatten()
        gram += terms @ terms.T
        right += terms @ change.flatten()
    inverse = torch.linalg.pinv(gram, rtol=1e-9, hermitian=True)
    error = torch.where(gram.diagonal() > 0, inverse.diagonal().clamp(min=0).sqrt(), torch.inf)
    shape = (len(codes), places.count)
    own = codes.clamp(fmt.lowest, fmt.top)[:, None]
    values = own + (inverse @ right).view(shape).float()
    return Table(fmt=fmt, codes=codes, values=values, error=error.view(shape).float())


def _terms(one: Multiplied, codes: Tensor, places: Places, columns: Tensor) -> Tensor:
    """Return [V * P, n * c], what each code adds to each element if it is read as one more."""
    keys, scale = keys_of(one.codes)[columns], one.codes.scale[columns]
    terms = [
        (one.x * (places.of_column == place)) @ torch.where(keys == code, scale, 0.0).T
        for code in codes
        for place in range(places.count)
    ]
    return torch.stack(terms).flatten(1)


def tells_more(table: Table) -> bool:
    """Tell whether some codes are right, and others not only off by one factor or amount.

    These would be scales, or zero points, of some places.
    """
    changed, own = table.changed, table.own.expand_as(table.values)
    if not bool(changed.any()) or not bool(table.right.any()):
        return False
    in_places = changed.any(dim=0) & (own != 0) & table.error.isfinite()
    if bool((in_places & ~changed).any()):
        return True
    values, own = table.in_codes()[in_places], own[in_places]
    factor, amount = values / own, values - own
    is_one = bool(((factor - factor[0]).abs() <= SAME).all()) and bool((factor != 0).all())
    return len(own) == 1 or not (is_one or bool((amount == amount[0]).all()))


def _left(
    errors: StageErrors, given: Sequence[Multiplied], table: Table, places: Places
) -> float | None:
    """Return which part of the error is left by what is read; None unless all elements fit."""
    predicted, change = errors.expected.clone(), table.in_codes() - table.own
    for one in given:
        at = torch.searchsorted(table.codes, keys_of(one.codes))
        of_weights = change[at, places.of_column] * one.codes.scale
        predicted[one.rows] += one.x @ of_weights.T
    return errors.left_by(predicted)


def _text(table: Table, places: Places, name: str) -> str:
    """Return which codes are read as which, as the end of "the weights"."""
    values, parts = table.in_codes(), []
    for place in table.changed.any(dim=0).nonzero().flatten().tolist():
        is_changed = table.changed[:, place]
        read = values[is_changed, place].tolist()
        pairs = dict(zip(table.codes[is_changed].tolist(), read, strict=True))
        parts.append(f"{_pairs(pairs)}{places.text(name, place)}")
    return f"have codes that are read as others: {'; '.join(parts)}"


def _pairs(pairs: dict[float, float]) -> str:
    """Return codes and what they are read as, those of both signs as one."""
    both = {c: v for c, v in pairs.items() if c > 0 and pairs.get(-c) == -v}
    single = {c: v for c, v in pairs.items() if abs(c) not in both}
    shown = [f"+-{c:g} as +-{v:g}" if v else f"+-{c:g} as 0" for c, v in both.items()]
    shown += [f"{c:g} as {v:g}" for c, v in single.items()]
    more = f" and {len(shown) - FEW} more" if len(shown) > FEW else ""
    return f"{', '.join(shown[:FEW])}{more}"
