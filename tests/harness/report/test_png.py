"""Pictures are read back chunk by chunk, without the code that wrote them."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import torch

from tests.harness.diagnosis.mistaken import call_of, with_output

if TYPE_CHECKING:
    from pathlib import Path

from harness.diagnosis import error_image
from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.result import CaseResult, Verdict
from harness.report import png

MAGENTA = (255, 0, 255)
GREY = (128, 128, 128)


def decode(path: Path) -> tuple[list[list[tuple[int, ...]]], str]:
    """Rows of RGB pixels and the description, by the PNG specification."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + body) == checksum
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"tEXt", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    colours = list(zip(*[iter(chunks[b"PLTE"])] * 3, strict=True))
    lines = zlib.decompress(chunks[b"IDAT"])
    assert len(lines) == height * (width + 1)
    rows = [lines[i * (width + 1) : (i + 1) * (width + 1)] for i in range(height)]
    assert {row[0] for row in rows} == {0}
    return [[colours[p] for p in row[1:]] for row in rows], chunks[b"tEXt"].decode("latin-1")


def brightness(pixel: tuple[int, ...]) -> int:
    return sum(pixel)


def test_errors_by_row_and_column(tmp_path):
    call, _ = call_of()
    out = call.answer.out.clone()
    out[5] *= 3
    out[8, 100:110] = float("nan")
    name = error_image.save_rows(with_output(call, out), str(tmp_path), "a")
    assert name == "a.png"
    pixels, text = decode(tmp_path / name)
    assert "rows 0-39 down, columns 0-383 across" in text
    assert (len(pixels), len(pixels[0])) == (40 * 7, 384)  # small sides are enlarged
    assert all(pixels[r] == pixels[8 * 7] for r in range(8 * 7, 9 * 7))
    assert [c for c, p in enumerate(pixels[8 * 7]) if p == MAGENTA] == list(range(100, 110))
    bright, dark = ([sum(map(brightness, pixels[r * 7]))] for r in (5, 4))
    assert bright > [2 * dark[0]]


def test_large_outputs_are_cut_down_and_a_single_wrong_element_still_shows():
    expected = torch.ones(3000, 2000)
    wrong = expected.clone()
    wrong[1234, 567] = 9.0
    wrong[0, 0] = float("inf")
    levels = error_image.error_levels(wrong, expected)
    assert (len(levels), {len(row) for row in levels}) == (1024, {1024})
    found = {(r, c) for r, row in enumerate(levels) for c, level in enumerate(row) if level}
    assert levels[0][0] == png.BROKEN
    assert all(abs(r - 1234 / 3000 * 1024) <= 1 for r, _ in found - {(0, 0)})
    assert all(abs(c - 567 / 2000 * 1024) <= 1 for _, c in found - {(0, 0)})
    assert len(found) > 1


def test_experts_by_rank(tmp_path):
    calls = [
        CallDiagnosis(call=0, experts={"0": (0, 4), "2": (3, 3)}),
        CallDiagnosis(call=1, experts={"2": (0, 3)}),
    ]
    result = CaseResult(
        case_id="m:1",
        verdict=Verdict.FAILED,
        ranks={"0": "passed", "1": "failed"},
        diagnoses=(Diagnosis(rank=1, failed=(0, 1), of=2, calls=tuple(calls)),),
    )
    name = png.save_experts(result, tmp_path)
    assert name == "m:1.experts.png"
    pixels, text = decode(tmp_path / name)
    assert "experts 0-2 down, ranks 0-1 across" in text
    side, middle = 256 // 3 + 1, 128
    rows = [pixels[e * side] for e in range(3)]
    assert all(row[0] == GREY for row in rows)  # rank 0 passed: no diagnosis
    assert rows[1][middle] == GREY  # nobody was routed there
    assert brightness(rows[0][middle]) < 10
    assert brightness(rows[0][middle]) < brightness(rows[2][middle]) < 600  # half of them


def test_nothing_is_drawn_without_a_diagnosis(tmp_path):
    result = CaseResult(case_id="m:1", verdict=Verdict.FAILED)
    assert png.save_experts(result, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_long_ids_make_short_names():
    assert png.stem("m:1", "rank0-call1") == "m:1.rank0-call1"
    assert len(png.stem("m:1" * 100, "experts")) < 200
