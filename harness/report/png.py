"""Write pictures of a failed case as PNG: errors by row and column, wrong rows by expert and rank.

The writer uses the standard library only, so that the controller can draw as well.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from harness.record.run_folder import log_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.record.result import CaseResult

SMALL = 256  # smallest side in pixels; smaller pictures are enlarged
BROKEN = 255  # colour number of NaN and Inf, and of cells without data
_ANCHORS = ((0, 0, 4), (60, 15, 110), (160, 40, 100), (235, 105, 40), (252, 250, 160))
MAGENTA = (255, 0, 255)
_GREY = (128, 128, 128)


def stem(case_id: str, part: str) -> str:
    """Return a picture's file name without suffix; long ids are shortened as in log names."""
    return f"{log_name(case_id, 1).removesuffix('.log')}.{part}"


def save(
    folder: Path, name: str, levels: list[bytes], last: tuple[int, int, int], text: str
) -> str:
    """Write rows of colour numbers, enlarged to at least `SMALL` pixels; return `name`.

    last: RGB of BROKEN. text: the picture's description. Raises OSError if it cannot be written.
    """
    across, down = (max(1, -(-SMALL // side)) for side in (len(levels[0]), len(levels)))
    widened = [bytes(level for level in row for _ in range(across)) for row in levels]
    enlarged = [row for row in widened for _ in range(down)]
    write_png(folder / name, enlarged, palette(last), text)
    return name


def save_experts(result: CaseResult, folder: Path) -> str | None:
    """Draw the share of each expert's rows that was wrong on each rank, over all calls.

    Return the file's name, or None if no diagnosis counts rows by expert. Raises OSError if the
    file cannot be written.
    """
    counts: dict[int, dict[int, tuple[int, int]]] = {}  # expert -> rank -> (wrong, rows)
    for diagnosis in result.diagnoses:
        for call in diagnosis.calls:
            for expert, (num_wrong, rows) in call.experts.items():
                of_rank = counts.setdefault(int(expert), {})
                before = of_rank.get(diagnosis.rank, (0, 0))
                of_rank[diagnosis.rank] = (before[0] + num_wrong, before[1] + rows)
    if not counts:
        return None
    ranks = max(len(result.ranks), 1 + max(rank for row in counts.values() for rank in row))
    levels = [
        bytes(_share_level(*counts.get(expert, {}).get(rank, (0, 0))) for rank in range(ranks))
        for expert in range(max(counts) + 1)
    ]
    text = (
        f"experts 0-{len(levels) - 1} down, ranks 0-{ranks - 1} across; colour: the share of wrong "
        "rows among the rank's tokens for the expert, from none (black) to all (yellow); grey: "
        "no token, or a rank without a fault"
    )
    return save(folder, f"{stem(result.case_id, 'experts')}.png", levels, _GREY, text)


def write_png(
    path: Path, rows: Sequence[bytes], palette: Sequence[tuple[int, int, int]], text: str
) -> None:
    """Write an 8-bit palette picture. rows: colour numbers, of equal length; text: description."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", b"".join(bytes(colour) for colour in palette)),
        (b"tEXt", b"Description\0" + text.encode("latin-1")),
        (b"IDAT", body),
        (b"IEND", b""),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks))


def palette(last: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Return 255 colours from black to yellow, and `last` for BROKEN."""
    steps = len(_ANCHORS) - 1
    colours = []
    for i in range(BROKEN):
        piece, part = divmod(i / (BROKEN - 1) * steps, 1)
        low, high = _ANCHORS[int(piece)], _ANCHORS[min(int(piece) + 1, steps)]
        r, g, b = (round(a + (z - a) * part) for a, z in zip(low, high, strict=True))
        colours.append((r, g, b))
    return [*colours, last]


def _share_level(num_wrong: int, rows: int) -> int:
    return BROKEN if rows == 0 else round(num_wrong / rows * (BROKEN - 1))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
