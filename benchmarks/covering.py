"""Count the cases of covering suites beside a lower bound, PICT's published counts and covertable.

    python benchmarks/covering.py
    python benchmarks/covering.py --platform cuda_sm90 --suite nightly
    python benchmarks/covering.py --uniform-only

Uniform models have no constraints: `10^20` is 20 axes of 10 values. PICT's counts are those of the
table of tools on pairwise.org. covertable makes the same models where it is installed
(`pip install covertable`), of our own suites in pairs from the text that `coverage --pict` writes;
both have `--limit` seconds together. Largest: the most feasible combinations of any two or three
axes. Bound: what `coverage` proves, see harness/matrix/covering/bound.py.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import itertools
import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.matrix import expand
from harness.matrix.covering.bound import lower_bound
from harness.matrix.covering.generate import cover
from harness.matrix.covering.model import Model, all_targets
from harness.matrix.covering.oracle import Oracle
from harness.matrix.covering.space import Space
from harness.matrix.load import load
from harness.matrix.select import parse
from harness.plan import machine, suites
from harness.plan.decided import DecidingJudge

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.matrix.covering.model import Literals

    Timed = tuple[int, float]  # rows, seconds
    Make = Callable[[], Timed]

CONFIG = Path(__file__).parents[1] / "configs/matrix.yaml"
PICT = {
    "3^4": 9,
    "3^13": 18,
    "4^15 3^17 2^29": 37,
    "4^1 3^39 2^35": 27,
    "2^100": 15,
    "10^20": 210,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="cpu")
    parser.add_argument("--platform", default="cpu")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--uniform-only", action="store_true")
    only.add_argument("--suite-only", action="store_true")
    parser.add_argument("--limit", type=float, default=120, help="seconds of covertable, each")
    parser.add_argument("--strength", type=int, choices=(2, 3), help="of our suites; default: both")
    args = parser.parse_args()
    print(f"covertable: {_version()}")
    head = f"{'':<30} {'largest':>7} {'bound':>6} {'rows':>6} {'/bound':>6} {'s':>6}"
    print(f"{head} | PICT | covertable, s")
    for spec, published in () if args.suite_only else PICT.items():
        other = _limited(partial(_covertable, factors(spec), 2), args.limit)
        _line(spec, 2, uniform(spec, 2), str(published), other)
    if not args.uniform_only:
        strengths = (args.strength,) if args.strength else (2, 3)
        _suite(args.suite, args.platform, strengths, args.limit)


def _suite(name: str, platform: str, strengths: tuple[int, ...], limit: float) -> None:
    """Print a line for each covering block of a suite, in each strength."""
    config = load(CONFIG)
    on = machine.planned_for(platform)
    for number, block in enumerate(expand.suite_of(config, name).blocks, 1):
        if parse(block.select).strength is None:
            continue
        space = Space.of(block, config.defaults)
        for strength in strengths:
            model = space.model(space.targets(strength), DecidingJudge(on).refused)
            title = f"{name} block {number}, {platform}"
            text = partial(suites.pict_of, block, config.defaults, on)
            other = _limited(partial(_from_pict, text, 2), limit) if strength == 2 else None
            _line(title, strength, model, "", other)


def _line(
    title: str, strength: int, model: Model, published: str, other: Callable[[], str] | None
) -> None:
    began = time.perf_counter()
    rows = cover(model, Oracle(model))
    seconds = time.perf_counter() - began
    largest, bound = _bounds(model, rows, strength)
    line = (
        f"{title:<28} {strength} {largest:>7} {bound:>6} {len(rows):>6} {len(rows) / bound:>6.3f}"
    )
    print(f"{line} {seconds:>6.1f} | {published:>4} | ", end="", flush=True)
    if other is None or _version() == "not installed":
        print("-")
    else:
        print(other(), flush=True)


def _bounds(model: Model, rows: tuple[Literals, ...], strength: int) -> tuple[int, int]:
    """Return the most combinations of one target and the lower bound: rows have all feasible."""
    covered = {
        target: {tuple((f, row[f]) for f in target) for row in rows} for target in model.targets
    }
    starts = [numbers.start for numbers in model.literals]
    values = ([(f, n - starts[f]) for f, n in one] for one in itertools.chain(*covered.values()))
    bound = lower_bound(model.sizes, map(tuple, values), strength)
    return max(map(len, covered.values())), bound


def sizes(spec: str) -> list[int]:
    """Return the numbers of values that `4^15 3^17` stands for."""
    parts = [word.split("^") for word in spec.split()]
    return [int(values) for values, count in parts for _ in range(int(count))]


def factors(spec: str) -> dict[str, list[str]]:
    """Return names and values of a uniform model."""
    return {f"f{i}": [str(v) for v in range(size)] for i, size in enumerate(sizes(spec))}


def uniform(spec: str, strength: int) -> Model:
    """Return a model without constraints."""
    named = factors(spec)
    values = tuple(map(tuple, named.values()))
    return Model(names=tuple(named), values=values, targets=all_targets(len(named), strength))


def _covertable(named: dict[str, list[str]], strength: int) -> Timed:
    package: Any = importlib.import_module("covertable")
    return _timed(lambda: package.make(named, strength=strength))


def _from_pict(text: Callable[[], str], strength: int) -> Timed:
    package: Any = importlib.import_module("covertable.pict")
    model = package.PictModel(text())
    assert not model.errors, f"covertable cannot read the model: {model.errors[0]}"
    return _timed(lambda: model.make(strength=strength))


def _limited(make: Make, seconds: float) -> Callable[[], str]:
    """Return a function that calls `make` in a process of its own, and tells what came of it."""

    def tell() -> str:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=lambda: sender.send(make()))
        process.start()
        sender.close()  # so that the receiver sees the end of a process that failed
        try:
            if not receiver.poll(seconds):
                return f"not done in {seconds:g} s"
            count, took = receiver.recv()
        except EOFError:
            return "failed, see above"
        finally:
            process.kill()
            process.join()
        return f"{count}, {took:.1f}"

    return tell


def _timed(make: Callable[[], Any]) -> Timed:
    began = time.perf_counter()
    return len(list(make())), time.perf_counter() - began


def _version() -> str:
    try:
        return importlib.metadata.version("covertable")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
