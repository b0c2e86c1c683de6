"""Whether a built module of FlashInfer is there, and takes the sizes."""

import dataclasses
from pathlib import Path

import pytest

from moe.experts import EXPERTS, flashinfer_probe
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import LayerSpec, Platform, experts_refusal

H200 = Platform(name="cuda_sm90", device="cuda", features=frozenset({"cuda", "sm90"}))


def layer_spec(**changes):
    sizes = {"m": 4, "hidden": 64, "intermediate": 32, "num_experts": 4, "top_k": 2}
    return LayerSpec(**{**sizes, **changes})


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An installation of FlashInfer without any built module, and an empty cache."""
    package = tmp_path / "site" / "flashinfer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('the probe must not import it')")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path / "cache"))
    monkeypatch.setattr(flashinfer_probe, "_version", lambda: "1.2.3")
    flashinfer_probe._not_built.cache_clear()
    yield tmp_path
    flashinfer_probe._not_built.cache_clear()


def put_module(folder: Path):
    path = folder / "fused_moe_90" / "fused_moe_90.so"
    path.parent.mkdir(parents=True)
    path.touch()


def test_without_a_built_module_the_reason_says_where_it_looked_and_the_way_out(site):
    reason = flashinfer_probe.built(layer_spec(), H200)
    assert reason.code == "module_not_built"
    assert str(site / "site" / "flashinfer" / "data" / "aot") in reason.text
    assert "install FlashInfer's prebuilt modules (flashinfer-jit-cache" in reason.text


@pytest.mark.parametrize(
    "folder",
    [
        "site/flashinfer/data/aot",
        "site/flashinfer_jit_cache/jit_cache",
        "cache/.cache/flashinfer/1.2.3/90a/cached_ops",
    ],
)
def test_a_built_module_is_found(site, folder):
    (site / "site" / "flashinfer_jit_cache").mkdir()
    (site / "site" / "flashinfer_jit_cache" / "__init__.py").touch()
    put_module(site / folder)
    assert flashinfer_probe.built(layer_spec(), H200) is None


def test_a_prebuilt_package_that_announces_its_folder_is_found(site, monkeypatch):
    info = site / "site" / "modules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: modules\nVersion: 1.0\n")
    group = "[flashinfer.jit_cache.providers]"
    (info / "entry_points.txt").write_text(f"{group}\nsm90 = built_for_sm90:manifest\n")
    folder = site / "elsewhere"
    (site / "site" / "built_for_sm90.py").write_text(
        f"def manifest():\n    return {{'jit_cache_dir': {str(folder)!r}}}\n"
    )
    put_module(folder)
    assert flashinfer_probe.built(layer_spec(), H200) is None


def test_a_module_of_another_version_does_not_count(site):
    put_module(site / "cache/.cache/flashinfer/1.2.2/90a/cached_ops")
    assert flashinfer_probe.built(layer_spec(), H200).code == "module_not_built"


def test_each_chip_has_a_module_of_its_own(site):
    put_module(site / "site/flashinfer/data/aot")
    assert flashinfer_probe.built(layer_spec(), H200) is None
    b200 = Platform(name="cuda_sm100", device="cuda", features=frozenset({"cuda", "sm100"}))
    assert "no built fused_moe_100.so" in flashinfer_probe.built(layer_spec(), b200).text
    other = Platform(name="other", device="cuda", features=frozenset({"cuda"}))
    reason = flashinfer_probe.built(layer_spec(), other)
    assert (reason.code, "not for other" in reason.text) == ("platform_lacks_feature", True)


@pytest.mark.parametrize(
    ("quant", "chip", "fields", "code", "text"),
    [
        ("none", "cuda_sm90", {"hidden": 72, "intermediate": 40}, None, ""),
        ("none", "cuda_sm90", {"intermediate": 36}, "size_not_multiple", "not a multiple of 8"),
        (
            "fp8_tensor",
            "cuda_sm90",
            {"hidden": 72},
            "size_not_multiple",
            "72 is not a multiple of",
        ),
        ("fp8_tensor", "cuda_sm100", {}, None, ""),
        ("mxfp4", "cuda_sm90", {"hidden": 256, "intermediate": 128}, None, ""),
        ("mxfp4", "cuda_sm90", {"hidden": 192, "intermediate": 128}, "size_not_multiple", "of 128"),
        ("mxfp4", "cuda_sm100", {}, "activation_format_unsupported", "mxfp8 on cuda_sm100, not"),
        ("mxfp4_mxfp8", "cuda_sm90", {}, "activation_format_unsupported", "model on cuda_sm90"),
        ("mxfp4_mxfp8", "cuda_sm100", {"hidden": 256, "intermediate": 128}, None, ""),
        ("nvfp4", "cuda_sm90", {}, "weight_format_unsupported", "on cuda_sm90, not nvfp4"),
        ("nvfp4", "cuda_sm100", {"hidden": 256, "intermediate": 128}, None, ""),
        ("nvfp4_dynamic", "cuda_sm100", {}, "activation_format_unsupported", "not nvfp4_dynamic"),
        ("fp8_block", "cuda_sm90", {}, "weight_format_unsupported", "not fp8_block"),
        ("none", "cuda_sm80", {}, "platform_lacks_feature", "fp8_mma"),
    ],
)
def test_formats_and_their_multiples_by_chip(monkeypatch, quant, chip, fields, code, text):
    monkeypatch.setattr("moe.needs.package_refusal", lambda package: None)
    needs = dataclasses.replace(EXPERTS.row("flashinfer_cutlass").needs, probe=None)
    spec = layer_spec(scheme=QUANT.row(quant).scheme, **fields)
    reason = experts_refusal(needs, spec, platform(chip))
    assert (reason and reason.code) == code
    assert text in (reason.text if reason else "")
