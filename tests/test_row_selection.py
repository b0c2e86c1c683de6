"""Which tests run again with extra rows: each function at least once, and all of the extra rows."""

from __future__ import annotations

from tests.row_selection import EXTRA, WITHOUT_ROWS, left_out, row_names

ROOT = EXTRA.parents[1]


def test_the_first_of_this_projects_rows_and_all_extra_ones_stay():
    ids = [
        "tests/a.py::test_rows[triton-bf16]",
        "tests/a.py::test_rows[torch_loop-bf16]",
        "tests/a.py::test_rows[by_token-bf16]",
        "tests/a.py::test_rows[triton-s8_weights]",
        "tests/a.py::test_others[torch_loop]",
        "tests/a.py::test_sizes[3-5]",
        "tests/a.py::test_sizes[3-7]",
        "tests/a.py::test_alone",
        "tests/harness/engine/test_gang.py::test_alone",
        "tests/test_words.py::test_alone[a]",
        "tests/test_words_of_mine.py::test_alone",
    ]
    dropped = list(left_out(ids, {"triton", "torch_loop"}, {"by_token", "s8_weights"}))
    assert dropped == [ids[1], ids[8], ids[9]]


def test_a_row_in_a_case_id_counts():
    ids = [f"tests/a.py::test_cases[m:3-experts:{name}-dp:2]" for name in ("triton", "torch_loop")]
    assert list(left_out(ids, {"triton", "torch_loop"}, set())) == ids[1:]


def test_rows_are_told_apart_by_their_package():
    own, extra = row_names()
    assert {"torch_loop", "fp8_block", "softmax", "silu", "cpu"} <= own
    assert not own & extra


def test_what_is_left_out_exists():
    assert [path for path in WITHOUT_ROWS if not (ROOT / path).exists()] == []
