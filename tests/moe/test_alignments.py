"""Known multiples: formats and features exist, and gpt-oss gets the sizes that are known for it."""

import dataclasses

import pytest

from moe import alignments
from moe.formats import FORMATS
from moe.platforms import PLATFORMS, platform
from moe.roundup import Alignment, rounded_up
from moe.spec import LayerSpec, Needs, Scheme

TABLES = {
    name: rows for name, rows in vars(alignments).items() if name.isupper() and name[0] != "_"
}


@pytest.mark.parametrize("name", TABLES)
def test_each_row_names_formats_and_features_that_exist(name):
    features = {word for row in PLATFORMS for word in platform(row.name).features}
    for row in TABLES[name]:
        assert isinstance(row, Alignment)
        assert row.weights <= set(FORMATS.rows)
        assert row.features <= features
        assert max(row.hidden, row.shard) > 1


@pytest.mark.parametrize(
    ("name", "chip", "sizes"),
    [
        ("FLASHINFER_TRTLLM", "cuda_sm100", (3072, 2944)),
        ("FLASHINFER_CUTLASS", "cuda_sm90", (2944, 2944)),
        ("MARLIN", "cuda_sm90", (3072, 2944)),
        ("TRITON_KERNELS", "cuda_sm90", (2880, 2880)),
        ("TRITON_KERNELS", "rocm_gfx950", (3072, 3072)),
        ("AITER", "rocm_gfx950", (3072, 3072)),
        ("EMULATION", "cpu", (2880, 2880)),
    ],
)
def test_sizes_of_gpt_oss_in_mxfp4(name, chip, sizes):
    scheme = Scheme(weights="mxfp4", activations="model")
    gpt_oss = LayerSpec(
        m=1, hidden=2880, intermediate=2880, num_experts=32, top_k=4, scheme=scheme, pads=True
    )
    needs = dataclasses.replace(Needs(), alignments=TABLES[name])
    found = rounded_up(gpt_oss, needs, platform(chip).features).for_experts()
    assert (found.hidden, *found.shard_sizes) == sizes
