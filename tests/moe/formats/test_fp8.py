"""The fp8 of each platform, and its range."""

import pytest

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.fp8 import fp8_grid, fp8_range
from moe.platforms import PLATFORMS, platform
from moe.spec import Platform


@pytest.mark.parametrize("row", list(PLATFORMS), ids=lambda row: row.name)
def test_a_platform_s_range_is_that_of_the_formats_whose_codes_it_multiplies(row):
    chip = platform(row.name)
    native = [fmt for fmt in FORMATS if fmt.grid.startswith("e4m3")]
    native = [fmt for fmt in native if fmt.needs.features <= chip.features]
    if not native:
        with pytest.raises(MoEError, match=f"platform {row.name} has no fp8: it has none of the"):
            fp8_range(chip)
        return
    grid = fp8_grid(chip)
    tops = {fmt.top for fmt in native if fmt.grid == grid}
    assert tops == {fp8_range(chip)[1]}
    assert fp8_range(chip)[0] == -fp8_range(chip)[1]


@pytest.mark.parametrize(
    ("features", "grid", "top"),
    [
        ({"fp8_e4m3"}, "e4m3", 448.0),
        ({"fp8_e4m3fnuz"}, "e4m3fnuz", 240.0),
        ({"fp8_e4m3", "fp8_e4m3fnuz"}, "e4m3", 448.0),
    ],
)
def test_features_decide_and_ocp_is_preferred(features, grid, top):
    chip = Platform(name="chip", device="cuda", features=frozenset(features))
    assert (fp8_grid(chip), fp8_range(chip)) == (grid, (-top, top))


def test_a_chip_without_fp8_is_told_what_to_choose():
    chip = Platform(name="chip", device="cuda", features=frozenset({"cuda"}))
    says = "chip has no fp8: it has none of the features fp8_e4m3, fp8_e4m3fnuz; choose an int8 met"
    with pytest.raises(MoEError, match=says):
        fp8_grid(chip)
