"""How much of its bound each member uses, drawn: `python benchmarks/bounds_plot.py`.

For each quantization method and member: above the line the rows of right outputs and the wrong
answers that every case must reject, below it the other known mistakes, all as shares of the
bound, which is 1. Writes docs/bounds.svg and prints its numbers as a table. With `--device cuda`
the compiled members are measured, FlashInfer's among them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from math import copysign, log10
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from shares import Shares, cases, measured

from moe.platforms.detect import devices

if TYPE_CHECKING:
    from collections.abc import Iterable

    Found = dict[tuple[str, str], Shares]  # by quantization method and member

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "bounds.svg"
LOW, HIGH = -2, 4  # decades of the axis; what lies beyond is drawn at its ends
BINS = 10  # a decade
LEFT, DECADE = 172, 80  # pixels: where the axis begins, and one decade of it
HEAD, TITLE, STRIP = 104, 26, 46  # pixels: above the first band; a band's title; one strip
UP, DOWN = 28, 11  # pixels of the tallest bar above the line, and below
COLUMNS = (696, 746, 800, 858)  # pixels: right ends of median, 99 %, largest, closest
HEADINGS = "| quant | member | rows | median | 99 % | largest | closest wrong | closest other |"
STYLE = """
    .page { fill: #ffffff } .band { fill: #f6f8fa; stroke: #d0d7de }
    .grid { stroke: #d0d7de } .bound { stroke: #1f2328; stroke-width: 1.6 }
    .right { fill: #0969da } .wrong { fill: #cf222e } .others { fill: #bf8700 }
    text { font-family: system-ui, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; \
fill: #1f2328 }
    text.small { font-size: 11px } text.quiet { fill: #59636e } text.head { font-weight: 600 }
    text.end { text-anchor: end } text.middle { text-anchor: middle }
    text.blue { fill: #0550ae } text.red { fill: #a40e26 } text.amber { fill: #7d4e00 }
    @media (prefers-color-scheme: dark) {
      .page { fill: #0d1117 } .band { fill: #151b23; stroke: #3d444d }
      .grid { stroke: #3d444d } .bound { stroke: #f0f6fc }
      .right { fill: #4493f8 } .wrong { fill: #f85149 } .others { fill: #d29922 }
      text { fill: #f0f6fc } text.quiet { fill: #9198a1 }
      text.blue { fill: #79c0ff } text.red { fill: #ff7b72 } text.amber { fill: #e3b341 }
    }
"""


def number(share: float) -> str:
    """.41, 5.0, 36: two digits, whole from 10 on."""
    if share >= 10:
        return f"{share:.0f}"
    return f"{share:.1f}" if share >= 1 else f"{share:.2f}".removeprefix("0")


def quantile(shares: tuple[float, ...], part: float) -> float:
    """The smallest share that at least this part of them do not exceed."""
    return sorted(shares)[max(0, -int(-part * len(shares) // 1) - 1)]


def summary(shares: Shares) -> list[str]:
    """Median, 99 % and largest of the right rows; the closest of the wrong answers and others."""
    right = (median(shares.right), quantile(shares.right, 0.99), max(shares.right))
    closest = (min(shares.wrong), min(shares.others))
    return [*map(number, right), *(f"{number(share)} {name}" for share, name in closest)]


def table(found: Found) -> str:
    """Markdown, a line for each strip of the picture."""
    lines = [HEADINGS, "|---" * HEADINGS.count(" | ") + "|---|"]
    for (quant, member), shares in found.items():
        cells = (quant, member, str(len(shares.right)), *summary(shares))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def place(exponent: float) -> float:
    """Pixels from the left of the share 10 ** exponent."""
    return LEFT + (exponent - LOW) * DECADE


def bin_of(share: float) -> int:
    """From 0, the axis's left end; that of 1 begins at the bound."""
    exponent = min(max(log10(share), LOW), HIGH) if share > 0 else LOW
    return min(int((exponent - LOW) * BINS), (HIGH - LOW) * BINS - 1)


def bars(kind: str, shares: Iterable[float], line: float, height: float) -> str:
    """A histogram as one path, its tallest bar `height` above the line (below, where negative).

    No bar is lower than a pixel, so that a single answer shows.
    """
    counts, width = Counter(map(bin_of, shares)), DECADE / BINS
    parts = []
    for b, count in sorted(counts.items()):
        size = copysign(max(1.0, abs(height) * count / max(counts.values())), height)
        x = place(LOW + b / BINS)
        parts.append(f"M{x:.1f} {line:.1f}v{-size:.1f}h{width - 0.8:.1f}V{line:.1f}z")
    return f'<path class="{kind}" d="{"".join(parts)}"/>'


def text(x: float, y: float, words: str, kinds: str = "") -> str:
    return f'<text class="{kinds}" x="{x:.1f}" y="{y:.1f}">{words}</text>'


def strip(member: str, shares: Shares, y: float) -> list[str]:
    """One member's distributions and numbers; its line is `UP` below y."""
    line = y + UP
    return [
        f'<path class="grid" d="M{LEFT} {line:.1f}H{place(HIGH):.1f}"/>',
        text(LEFT - 12, line, member, "end"),
        bars("right", shares.right, line, UP),
        bars("wrong", (share for share, _ in shares.wrong), line, UP),
        bars("others", (share for share, _ in shares.others), line, -DOWN),
        *numbers(summary(shares), line),
    ]


def numbers(cells: list[str], line: float) -> list[str]:
    """The row's own numbers, then the closest mistakes of both kinds, one above the other."""
    found = [
        text(x, line - 4, cell, "blue end") for x, cell in zip(COLUMNS[:3], cells[:3], strict=True)
    ]
    for cell, y, kind in ((cells[-2], line - 10, "red"), (cells[-1], line + 7, "amber")):
        share, _, name = cell.partition(" ")
        found.append(text(COLUMNS[-1], y, share, f"{kind} end"))
        found.append(text(COLUMNS[-1] + 7, y, name, f"{kind} small"))
    return found


def legend() -> list[str]:
    """Title, what the colours are, and the heads of the columns of numbers."""
    kinds = (
        ("right", "rows of right outputs", 20),
        ("wrong", "wrong answers that every case must reject", 200),
        ("others", "other known mistakes, below the line", 530),
    )
    found = [text(20, 28, "Distance from the reference, as a share of its bound", "head")]
    for kind, words, x in kinds:
        found.append(f'<rect class="{kind}" x="{x}" y="42" width="12" height="12"/>')
        found.append(text(x + 18, 53, words))
    heads = zip(COLUMNS[:3], ("median", "99 %", "largest"), strict=True)
    found += [text(x, HEAD - 12, head, "quiet end") for x, head in heads]
    return [*found, text(COLUMNS[-1] - 24, HEAD - 12, "closest mistake", "quiet")]


def axis(bottom: float) -> list[str]:
    """Decades as thin lines with their numbers below, and the bound."""
    found = []
    for exponent in range(LOW, HIGH + 1):
        x = place(exponent)
        kind = "grid" if exponent else "bound"
        found.append(f'<path class="{kind}" d="M{x:.1f} {HEAD - 6}V{bottom:.1f}"/>')
        words = f"{10.0**exponent:g}".removeprefix("0")
        found.append(text(x, bottom + 17, words, "quiet middle"))
    at, y = place(0), HEAD - 12
    found.append(text(at, y, "the bound", "head middle"))
    return [*found, text(at - 44, y, "passes ←", "quiet end"), text(at + 44, y, "→ fails", "quiet")]


def band(quant: str, members: dict[str, Shares], y: float) -> list[str]:
    """A method's frame, with a strip for each member."""
    height = TITLE + STRIP * len(members)
    found = [
        f'<rect class="band" x="8" y="{y}" width="984" height="{height}" rx="8"/>',
        text(20, y + 18, quant, "head"),
    ]
    for i, (member, shares) in enumerate(members.items()):
        found += strip(member, shares, y + TITLE - 10 + STRIP * i)
    return found


def drawn(found: Found, where: str) -> str:
    """The picture as SVG; where: what it was measured on."""
    groups: dict[str, dict[str, Shares]] = {}
    for (quant, member), shares in found.items():
        groups.setdefault(quant, {})[member] = shares
    y, bands = HEAD, []
    for quant, members in groups.items():
        bands += band(quant, members, y)
        y += TITLE + STRIP * len(members) + 8
    frames = [line for line in bands if line.startswith("<rect")]
    rest = [line for line in bands if not line.startswith("<rect")]
    foot = text(20, y + 36, where, "quiet small")
    return page(y + 48, [*legend(), *frames, *axis(y), *rest, foot])


def page(height: int, lines: list[str]) -> str:
    size = f'viewBox="0 0 1000 {height}" width="1000" height="{height}"'
    body = "\n  ".join(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="t">\n'
        f'  <title id="t">Shares of the bound that right and wrong outputs take</title>\n'
        f'  <style>{STYLE}  </style>\n  <rect class="page" width="1000" height="{height}"/>\n'
        f"  {body}\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seeds", type=int, default=5, help="cases of each kind (5)")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the picture (docs/bounds.svg)")
    args = parser.parse_args()
    gpus = devices()
    if args.device == "cuda" and not gpus:
        parser.error("no GPU is here; leave --device out")
    points = cases(args.device, args.seeds)
    found = measured(points, args.device)
    chip = gpus[0].name if args.device == "cuda" else "CPU, Triton kernels interpreted"
    sizes = f"m = {points[0].m}, n = {points[0].n}, k = {points[0].k}, 8 experts, top-2"
    seeds = f"{args.seeds} seeds on one rank and on two"
    where = f"{chip}; {seeds}; {sizes}; the last bar: {10**HIGH} and beyond"
    args.out.write_text(drawn(found, where), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
