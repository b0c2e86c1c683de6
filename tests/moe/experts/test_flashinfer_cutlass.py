"""FlashInfer's experts: conversions anywhere, the kernel where it is built."""

import importlib.util

import pytest
import torch

from moe import guarded_buffers
from moe.experts import EXPERTS, flashinfer_probe
from moe.experts.flashinfer_cutlass import FlashInferCutlassExperts, kernel_routing
from moe.quant import QUANT
from moe.quant.none import NoQuant
from moe.spec import LayerSpec, Platform, resolve
from moe.types import Activations, ExpertWeights, Routing

ROW = EXPERTS.row("flashinfer_cutlass")
H200 = Platform(name="cuda_sm90", device="cuda", features=frozenset({"cuda", "sm90"}))
FP8 = QUANT.row("fp8_tensor").scheme


def layer_spec(**changes):
    sizes = {"m": 4, "hidden": 64, "intermediate": 32, "num_experts": 4, "top_k": 2}
    return LayerSpec(**{**sizes, **changes})


def test_a_padding_slot_keeps_its_id_and_weighs_nothing():
    ids = torch.tensor([[1, -1], [-1, -1], [0, 2]])
    given = torch.tensor([[0.25, float("nan")], [float("inf"), 7.0], [0.5, 0.75]])
    kernel_ids, kernel_weights = kernel_routing(Routing(topk_ids=ids, topk_weights=given))
    assert torch.equal(kernel_ids, ids.to(torch.int32))
    assert kernel_ids.dtype == torch.int32
    assert kernel_weights.tolist() == [[0.25, 0.0], [0.0, 0.0], [0.5, 0.75]]
    assert kernel_weights.dtype == torch.float32


class NeverCalled:
    """In FlashInfer's place where nothing may be called; the kernel would abort the process."""

    def __getattr__(self, name):
        raise AssertionError(f"reached {name}")


@pytest.mark.parametrize(("tokens", "local"), [(0, 3), (5, 0)])
def test_a_rank_with_no_tokens_or_no_experts_does_not_reach_the_kernel(tokens, local):
    experts = FlashInferCutlassExperts(layer_spec(), 0, ROW.numerics, NoQuant())
    experts.num_local = local
    experts._flashinfer = NeverCalled()
    x = Activations(codes=torch.ones(tokens, 64, dtype=torch.bfloat16))
    routing = Routing(
        topk_ids=torch.full((tokens, 2), -1, dtype=torch.int32), topk_weights=torch.ones(tokens, 2)
    )
    with guarded_buffers.poisoned():
        out = experts.apply(x, routing)
    assert out.shape == (tokens, 64)
    assert out.dtype == torch.bfloat16
    assert not out.any()


def test_the_row_names_the_class_and_the_probe():
    assert resolve(ROW.target) is FlashInferCutlassExperts
    assert resolve(ROW.needs.probe) is flashinfer_probe.built


# The kernel, where there is one.


def kernel_is_here():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0):
        return "needs a chip of sm90"
    if importlib.util.find_spec("flashinfer") is None:
        return "flashinfer is not installed"
    reason = flashinfer_probe.built(layer_spec(), H200)
    return reason.text if reason else ""


on_the_chip = pytest.mark.skipif(bool(kernel_is_here()), reason=kernel_is_here())


def one_case(quant_name, tokens, seed=0):
    """Weights, tokens and routing of three experts of which a row uses one, two or none."""
    case = layer_spec(
        m=tokens, hidden=256, intermediate=128, num_experts=3, scheme=QUANT.row(quant_name).scheme
    )
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale):
        return (torch.randn(shape, generator=generator) * scale).to("cuda", torch.bfloat16)

    plain = ExpertWeights(w13=draw(3, 256, 256, scale=0.1), w2=draw(3, 256, 128, scale=0.1))
    x = draw(tokens, 256, scale=1.0)
    ids = torch.stack([torch.randperm(3, generator=generator)[:2] for _ in range(tokens)]).int()
    ids[::3, 0] = -1
    ids[2::5] = -1
    gates = torch.rand((tokens, 2), generator=generator) + 0.25
    return case, plain, x, Routing(topk_ids=ids.cuda(), topk_weights=gates.cuda())


def expected(plain, x, routing):
    """The plain layer in float64, one (row, slot) after the other."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    rows = zip(routing.topk_ids.tolist(), routing.topk_weights.tolist(), strict=True)
    for row, (ids, gates) in enumerate(rows):
        for expert, gate in zip(ids, gates, strict=True):
            if expert >= 0:
                g, up = (plain.w13[expert].double().cpu() @ x[row].double().cpu()).chunk(2)
                out[row] += gate * (plain.w2[expert].double().cpu() @ (torch.sigmoid(g) * g * up))
    return out


def build(case, plain, x, quant_name):
    quant = QUANT.load(quant_name)()
    prepared = quant.quantize_weights(plain.w13, plain.w2)
    if quant_name == "fp8_tensor":
        top = x.float().abs().max() / 448
        prepared = prepared.replace(a1_scale=top, a2_scale=torch.tensor(16 / 448, device="cuda"))
    experts = FlashInferCutlassExperts(case, 0, ROW.numerics, quant)
    experts.prepare_weights(prepared)
    return experts, quant.quantize_input(x, prepared.a1_scale)


@on_the_chip
@pytest.mark.parametrize(("quant_name", "bound"), [("none", 0.008), ("fp8_tensor", 0.12)])
@pytest.mark.parametrize("tokens", [1, 7, 300])  # 300: beyond the small-batch prologue
def test_rows_with_none_some_and_all_slots_here_are_right(quant_name, bound, tokens):
    case, plain, x, routing = one_case(quant_name, tokens)
    experts, activations = build(case, plain, x, quant_name)
    with guarded_buffers.poisoned():
        out = experts.apply(activations, routing).double().cpu()
        assert guarded_buffers.broken_guards() == []
    want = expected(plain, x, routing)
    assert (out - want).norm() <= bound * want.norm()
    nowhere = (routing.topk_ids < 0).all(dim=1).cpu()
    assert bool(nowhere.any()) == (tokens > 2)
    assert not out[nowhere].any()


@on_the_chip
def test_a_batch_that_has_nothing_here_comes_out_as_zeros():
    case, plain, x, routing = one_case("none", 5)
    experts, activations = build(case, plain, x, "none")
    ids = torch.full_like(routing.topk_ids, -1)
    nothing = Routing(topk_ids=ids, topk_weights=routing.topk_weights)
    with guarded_buffers.poisoned():
        out = experts.apply(activations, nothing)
    assert not out.any()
