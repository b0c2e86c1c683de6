"""What the oracle decides and what plans refuse is in tests/golden; a change must be looked at."""

import difflib
from dataclasses import replace

import pytest

from harness.plan import golden
from harness.plan.golden import CHIPS, FILES, FOLDER
from moe.experts import EXPERTS
from moe.oracle import declared_needs
from moe.quant import QUANT

OWN_ONLY = pytest.mark.skipif(
    not golden.is_own(), reason="rows of other packages are installed, which change the files"
)


@OWN_ONLY
@pytest.mark.parametrize("name", FILES)
def test_the_files_are_what_the_code_decides(name):
    kept, current = (FOLDER / name).read_text(), FILES[name]()
    lines = difflib.unified_diff(
        kept.splitlines(), current.splitlines(), "kept", "now", lineterm="", n=0
    )
    text = "\n".join(lines)
    if text:
        pytest.fail(f"{text}\nif this is meant, run `make golden`", pytrace=False)


def test_every_chip_and_method_has_a_decision():
    lines = (FOLDER / "decisions.txt").read_text().splitlines()[1:]
    pairs = {tuple(line.split()[:2]) for line in lines}
    assert pairs == {(chip, row.name) for chip in CHIPS for row in QUANT.built_in}


@pytest.fixture(scope="module")
def kept():
    """What the oracle decides, made once."""
    return golden.decisions()


def test_decisions_do_not_depend_on_this_machine(monkeypatch, kept):
    """With every package missing, and with an interpreter that does not work."""
    monkeypatch.setattr("moe.packages.metadata.version", lambda name: "0")
    monkeypatch.setattr("moe.platforms.cpu.interpreter_fault", lambda: "it does not work")
    declared_needs.cache_clear()
    assert golden.decisions() == kept


def test_a_row_that_takes_less_changes_a_line(monkeypatch, kept):
    pair, row = ("fp8_block", "fp8_group"), EXPERTS.row("triton")
    fewer = replace(row, needs=replace(row.needs, formats=row.needs.formats - {pair}))
    monkeypatch.setattr(EXPERTS, "_rows", EXPERTS.rows | {"triton": fewer})
    changed = set(golden.decisions().splitlines()) - set(kept.splitlines())
    assert changed
    assert {line.split()[1] for line in changed} == {"fp8_block"}
