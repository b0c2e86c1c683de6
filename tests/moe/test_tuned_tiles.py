"""Tactics of vLLM's and SGLang's kernels are the tiles of the files that fit a layer's formats."""

import json

import pytest

from moe import tuned_tiles
from moe.released_vllm import TRITON
from moe.spec import LayerSpec, Scheme
from tests.moe.released_subjects import needs

FP8_BLOCK = ("fp8_w8a8", (128, 128), False)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Put a package on the path with files of tuned tiles beside a module, and one that is none."""
    files = {
        "E=8,N=64,device_name=NVIDIA_H100.json": {"1": tile(16, 64, 128, 1, num_warps=8)},
        "E=8,N=64,device_name=NVIDIA_H200.json": {"1": tile(16, 64, 128, 1), "triton_version": "3"},
        "E=8,N=64,device_name=AMD,dtype=fp8_w8a8,block_shape=[128, 128].json": {
            "1": tile(64, 128, 128, 32, num_stages=2)
        },
        "E=8,N=64,device_name=AMD,dtype=fp8_w8a8,per_channel_quant=True_down.json": {
            "1": tile(32, 32, 64, 8)
        },
        "E=8,N=64,device_name=AMD,dtype=int4_w4a16,backend=other.json": {"1": {"tile_m": 16}},
    }
    folder = tmp_path / "tuned_of_tests" / "configs"
    folder.mkdir(parents=True)
    (folder.parent / "moe.py").touch()
    (folder.parent / "__init__.py").touch()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    monkeypatch.syspath_prepend(tmp_path)
    return "tuned_of_tests.moe"


def tile(m, n, k, group, **more):
    sizes = {"BLOCK_SIZE_M": m, "BLOCK_SIZE_N": n, "BLOCK_SIZE_K": k, "GROUP_SIZE_M": group}
    return {**sizes, **more}


def test_the_tiles_of_each_kind(module):
    plain = (None, None, False)
    assert tuned_tiles.tiles(module, plain, 6) == ("m16n64k128g1w4s3", "m16n64k128g1w8s3")
    assert tuned_tiles.tiles(module, plain, 4) == ("m16n64k128g1",)
    assert tuned_tiles.tiles(module, FP8_BLOCK, 6) == ("m64n128k128g32w4s2",)
    assert tuned_tiles.tiles(module, ("fp8_w8a8", None, True), 4) == ("m32n32k64g8",)
    assert tuned_tiles.tiles(module, ("int8_w8a8", None, False), 4) == ()


def test_no_package_and_other_formats_have_no_tiles(module):
    assert tuned_tiles.tiles("no_such_package.moe", FP8_BLOCK, 4) == ()
    sizes = {"m": 8, "hidden": 64, "intermediate": 64, "num_experts": 4, "top_k": 2}
    scheme = Scheme(weights="mxfp4", activations="mxfp4")
    for names in (tuned_tiles.vllm_tiles, tuned_tiles.sglang_tiles):
        assert names(LayerSpec(**sizes, scheme=scheme)) == ()


def test_a_name_is_a_configuration():
    assert tuned_tiles.config_of("m16n64k128g1w4s5") == tile(
        *(16, 64, 128, 1), num_warps=4, num_stages=5
    )
    assert tuned_tiles.config_of("m256n32k64g16") == tile(256, 32, 64, 16)


@needs(TRITON)
def test_vllm_has_some_for_each_of_its_formats():
    sizes = {"m": 8, "hidden": 64, "intermediate": 64, "num_experts": 4, "top_k": 2}
    for activations in ("model", "fp8_static", "fp8_token", "fp8_group", "int8_token"):
        spec = LayerSpec(**sizes, scheme=Scheme(weights="model", activations=activations))
        assert "m16n128k128g1" in tuned_tiles.vllm_tiles(spec)
        assert len(tuned_tiles.vllm_configurations(spec)) > len(tuned_tiles.vllm_tiles(spec)) > 20
