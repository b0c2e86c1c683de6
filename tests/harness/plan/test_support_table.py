"""The support table says what the rows of this project say, whatever else is installed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from harness.plan.support_table import page, tables
from moe import registry
from moe.activations import ACTIVATIONS
from moe.experts import EXPERTS
from moe.platforms import PLATFORMS
from moe.quant import QUANT
from moe.registry import Registry
from moe.spec import ANY, DTYPE_BYTES, MemberSpec, Needs, resolve


def cells_of(needs: Needs) -> list[str]:
    """Return the cells of a table with one row that has these needs."""
    rows: Registry[MemberSpec] = Registry(
        "experts", (MemberSpec(name="one", target="no:Class", needs=needs),)
    )
    return [cell.strip() for cell in tables(rows).splitlines()[2].strip("|").split("|")]


def by_method(needs: Needs) -> dict[str, str]:
    """Return the cells of the quantization methods by name."""
    return dict(zip([row.name for row in QUANT.built_in], cells_of(needs)[1:-2], strict=True))


def test_a_cell_names_the_platforms_that_have_the_features():
    needs = Needs(features=frozenset({"cuda"}), formats=ANY, dequantizes=True)
    names = [row.name for row in PLATFORMS.built_in if "cuda" in resolve(row.target)().features]
    assert 1 < len(names) < len(PLATFORMS.built_in)
    assert by_method(needs) == {row.name: ", ".join(names) for row in QUANT.built_in}


def test_a_method_whose_formats_are_refused_has_a_blank_cell():
    needs = Needs(formats=frozenset({("fp8_block", "fp8_group")}), dequantizes=True)
    cells = by_method(needs)
    assert {name: cell for name, cell in cells.items() if cell} == {"fp8_block": "all"}


def test_a_backend_that_multiplies_codes_is_not_claimed_for_chips_of_another_encoding():
    cells = by_method(Needs(formats=ANY))
    chips = [resolve(row.target)() for row in PLATFORMS.built_in]
    names = [chip.name for chip in chips if "fp8_e4m3" in chip.features]
    assert {chip.name for chip in chips} - {*names} == {"cuda_sm80", "rocm_gfx942"}
    assert cells["none"] == cells["int8_channel"] == "all"
    assert cells["fp8_block"].split(", ") == names
    assert by_method(Needs(formats=ANY, dequantizes=True))["fp8_block"] == "all"


def test_dtypes_and_activations_are_those_that_the_needs_name():
    assert cells_of(Needs())[-2:] == ["bf16", "silu"]
    every = [", ".join(DTYPE_BYTES), ", ".join(row.name for row in ACTIVATIONS.built_in)]
    assert cells_of(Needs(dtypes=ANY, activation_functions=ANY))[-2:] == every


def test_what_only_an_installation_can_answer_is_not_asked():
    needs = Needs(packages=("not_installed_anywhere",), probe="not_installed:probe")
    assert by_method(needs)["none"] == "all"


def test_rows_of_other_packages_are_left_out(monkeypatch):
    class Entry:
        def load(self) -> MemberSpec:
            return replace(EXPERTS.built_in[0], name="from_outside")

    expected = tables()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry()])
    table: Registry[MemberSpec] = Registry("experts", EXPERTS.built_in)
    assert "from_outside" in table.rows
    assert tables(table) == expected


def test_it_is_the_same_where_triton_is_missing(monkeypatch):
    from moe.platforms import cpu

    expected = tables()
    monkeypatch.setattr(cpu, "interpreter_fault", lambda: "cannot interpret")
    assert tables() == expected


def test_the_command_prints_the_tables_without_torch():
    command = (
        "import runpy, sys; runpy.run_module('harness.plan.support_table', run_name='__main__'); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout == page()
