"""How fast the experts' kernels are: `make bench-kernels`, or `python benchmarks/kernels.py`.

Every quantization method through every backend that takes it here: this project's Triton kernels,
torch, and whatever released kernels are installed. One line a backend, with milliseconds of a whole
call of the experts (alignment, both products, activation, second quantization, weighted sum) and in
brackets how many times the floor that is. The floor is measured in the same run: the operations at
the peak of a large matrix product, or the bytes of the active experts' weights at the bandwidth of
a copy, whichever takes longer. Reads alone can be faster than a copy, so that ratios to another
backend say more than those to the floor. Calls are replayed as CUDA graphs; those that synchronise,
marked `*`, are called as they are.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from moe.oracle import explain
from moe.platforms.detect import devices, platform_of
from moe.quant import QUANT
from moe.spec import STANDARD, LayerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from moe.experts.base import Experts
    from moe.quant.base import QuantMethod
    from moe.spec import MemberSpec, Platform
    from moe.types import ExpertWeights, Routing

TOKENS = (1, 64, 1024)
TINY_TOKENS = (1, 5)
# `--quick`: the shape, numbers of tokens and methods that tell most in a minute or two, without the
# backends that loop over experts.
QUICK_SHAPE, QUICK_TOKENS = "Qwen3-30B", (64, 1024)
QUICK_METHODS = ("none", "fp8_block", "int4_g128", "mxfp4")
LOOPS = ("torch_loop", "transformers_eager")
SECONDS = 0.2  # for the repeats of one call
MOST_REPEATS, WARM = 50, 3
STATIC_SCALE = 8 / 448  # of activations, where a method wants it calibrated


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The experts of one rank."""

    name: str
    experts: int
    hidden: int
    intermediate: int
    top_k: int


SHAPES = (
    Shape(name="Qwen3-30B", experts=128, hidden=2048, intermediate=768, top_k=8),
    Shape(name="Mixtral", experts=8, hidden=4096, intermediate=14336, top_k=2),
    Shape(name="DeepSeek-V3-EP8", experts=32, hidden=7168, intermediate=2048, top_k=8),
)
TINY = (Shape(name="tiny", experts=4, hidden=128, intermediate=128, top_k=2),)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What the device does at best, measured. products: bits of an operand -> operations a second.

    bandwidth: bytes a second that a copy reads and writes.
    """

    bandwidth: float
    products: dict[int, float]

    def floor(self, operations: float, weight_bytes: float, bits: int) -> float:
        """Return the seconds that a call takes at least."""
        return max(operations / self.products[bits], weight_bytes / self.bandwidth)


@dataclass(frozen=True, kw_only=True)
class Timed:
    """One backend at one number of tokens."""

    backend: str
    seconds: float
    floor: float
    is_graph: bool


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Return the median wall time of a call, the device waited for."""
    for _ in range(WARM):
        call()
    times: list[float] = []
    while len(times) < MOST_REPEATS and (sum(times) < SECONDS or len(times) < WARM):
        _wait(device)
        start = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - start)
    return median(times)


def graph_seconds(call: Callable[[], object]) -> float:
    """Return the median time of a call that is replayed as a CUDA graph, by events."""
    stream = _side_stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        call()
    times: list[float] = []
    while len(times) < MOST_REPEATS and (sum(times) < SECONDS or len(times) < WARM):
        begin, end = (_event(), _event())
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return median(times)


@cache
def _side_stream() -> torch.cuda.Stream:
    """Return one stream for all graphs: what the allocator caches belongs to a stream."""
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


def synchronises(call: Callable[[], object]) -> bool:
    """Return whether a call waits for the GPU, and so cannot become a graph."""
    call()  # whatever is made once is made
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(call: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call, as a graph on a GPU."""
    return graph_seconds(call) if device.type == "cuda" else seconds_of(call, device)


def peaks(device: torch.device) -> Peaks:
    """Measure a copy and products of 16 and 8 bits."""
    size, side = (1 << 30, 8192) if device.type == "cuda" else (1 << 20, 128)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    a = torch.randn(side, side, device=device).bfloat16()
    codes = a.to(torch.float8_e4m3fn)
    one = torch.ones((), device=device)
    copy = measure(lambda: target.copy_(source), device)
    products = {16: measure(lambda: a @ a, device)}
    try:
        products[8] = measure(
            lambda: torch._scaled_mm(codes, codes.T, one, one, out_dtype=torch.bfloat16), device
        )
    except (RuntimeError, NotImplementedError):  # no units for fp8: codes are multiplied as bf16
        products[8] = products[16]
    operations = 2 * side**3
    return Peaks(
        bandwidth=2 * size / copy, products={b: operations / s for b, s in products.items()}
    )


def layer_of(shape: Shape, tokens: int, quant: str) -> LayerSpec:
    """Return the layer of one rank."""
    return LayerSpec(
        m=tokens,
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        num_experts=shape.experts,
        top_k=shape.top_k,
        scheme=QUANT.row(quant).scheme,
    )


def backends(
    layer_spec: LayerSpec, platform: Platform, without: Sequence[str] = ()
) -> Iterator[MemberSpec]:
    """Yield the rows that support the layer here and take contiguous tokens."""
    from moe.experts import EXPERTS

    for name, reason in explain(layer_spec, platform).answers:
        row = EXPERTS.row(name)
        takes_tokens = row.kind == "modular" and row.dispatch_format == STANDARD
        if reason is None and takes_tokens and name not in without:
            yield row


def weights_of(
    shape: Shape, quant: QuantMethod, is_static: bool, device: torch.device
) -> ExpertWeights:
    """Return random weights, quantized on the device."""
    e, k, n = shape.experts, shape.hidden, shape.intermediate
    w13 = torch.randn(e, 2 * n, k, device=device, dtype=torch.bfloat16) * k**-0.5
    w2 = torch.randn(e, k, n, device=device, dtype=torch.bfloat16) * n**-0.5
    scale = torch.tensor(STATIC_SCALE, device=device) if is_static else None
    return quant.quantize_weights(w13, w2).replace(a1_scale=scale, a2_scale=scale)


def routing_of(shape: Shape, tokens: int, device: torch.device) -> Routing:
    """Return a random choice of experts, each equally often on average."""
    from moe.types import Routing

    scores = torch.rand(tokens, shape.experts, device=device)
    chosen = scores.topk(shape.top_k, dim=1)
    return Routing(topk_ids=chosen.indices.int(), topk_weights=chosen.values.softmax(dim=1))


def bytes_of_expert(weights: ExpertWeights) -> float:
    """Return the bytes of one expert's codes and scales."""
    parts = (t for t in vars(weights).values() if isinstance(t, torch.Tensor) and t.dim() > 0)
    return sum(t.numel() * t.element_size() for t in parts) / max(len(weights.w13), 1)


def times(
    shape: Shape,
    quant_name: str,
    tokens: int,
    platform: Platform,
    peak: Peaks,
    held: ExpertWeights,
    without: Sequence[str] = (),
) -> Iterator[Timed | str]:
    """Yield each backend's time, or `name: error` for one that fails."""
    from moe.experts import EXPERTS

    device, quant = held.w13.device, QUANT.load(quant_name)()
    layer_spec = layer_of(shape, tokens, quant_name)
    x = torch.randn(tokens, shape.hidden, device=device, dtype=torch.bfloat16)
    rows, routing = quant.quantize_input(x, held.a1_scale), routing_of(shape, tokens, device)
    active = len(set(routing.topk_ids.flatten().tolist()))
    operations = 6 * tokens * shape.top_k * shape.hidden * shape.intermediate
    bits = 16 if layer_spec.scheme.activations == "model" else 8
    floor = peak.floor(operations, active * bytes_of_expert(held), bits)
    for row in backends(layer_spec, platform, without):
        numerics = row.numerics_for(layer_spec.scheme, device.type)
        try:
            experts: Experts = EXPERTS.load(row.name)(layer_spec, 0, numerics, quant)
            experts.prepare_weights(held)
            call = partial(experts.apply, rows, routing)
            is_graph = device.type == "cuda" and not synchronises(call)
            spent = graph_seconds(call) if is_graph else seconds_of(call, device)
        except Exception as error:  # a released kernel may raise anything; the others go on
            yield f"{row.name}: {type(error).__name__}: {str(error).splitlines()[:1]}"
            continue
        finally:
            if device.type == "cuda":
                torch.cuda.empty_cache()  # a graph's memory is of no use to the next
        yield Timed(backend=row.name, seconds=spent, floor=floor, is_graph=is_graph)


def cell(timed: Timed) -> str:
    """Return `ms (times the floor)`, with `*` for a call that is not a graph."""
    mark = "" if timed.is_graph else "*"
    return f"{timed.seconds * 1e3:.4f}{mark} ({timed.seconds / timed.floor:.2f})"


def lines(quant: str, results: dict[str, dict[int, Timed]], counts: Sequence[int]) -> Iterator[str]:
    """Yield a line for each backend, and one that compares ours with the best other one."""
    for backend, by_count in results.items():
        cells = (cell(by_count[t]) if t in by_count else "-" for t in counts)
        yield f"{quant:<24}{backend:<24}" + "".join(f"{text:>22}" for text in cells)
    others = [by_count for name, by_count in results.items() if name != "triton"]
    ratios = []
    for t in counts:
        best = min((of[t].seconds for of in others if t in of), default=None)
        ours = results.get("triton", {}).get(t)
        ratios.append("-" if best is None or ours is None else f"{ours.seconds / best:.2f}")
    if "triton" in results and others:
        label = "triton / best other"
        yield f"{quant:<24}{label:<24}" + "".join(f"{text:>22}" for text in ratios)


def bench(
    shapes: Sequence[Shape],
    quants: Sequence[str],
    counts: Sequence[int],
    without: Sequence[str] = (),
) -> None:
    """Print the tables of all shapes, line by line."""
    platform = platform_of(devices())
    device = torch.device(platform.device)
    peak = peaks(device)
    products = ", ".join(f"{bits} bits {p / 1e12:.0f} T/s" for bits, p in peak.products.items())
    print(f"{platform.name}: copy {peak.bandwidth / 1e12:.2f} TB/s, products of {products}")
    for shape in shapes:
        sizes = f"{shape.experts} experts, {shape.hidden} x {shape.intermediate}"
        print(f"\n{shape.name} ({sizes}, top {shape.top_k}): ms (x floor)")
        print(f"{'quant':<24}{'backend':<24}" + "".join(f"{f'T={t}':>22}" for t in counts))
        for quant in quants:
            _bench_quant(shape, quant, counts, platform, peak, without)


def _bench_quant(
    shape: Shape,
    quant: str,
    counts: Sequence[int],
    platform: Platform,
    peak: Peaks,
    without: Sequence[str],
) -> None:
    row = QUANT.row(quant)
    if not any(backends(layer_of(shape, counts[0], quant), platform, without)):
        return
    device = torch.device(platform.device)
    held = weights_of(shape, QUANT.load(quant)(), row.static, device)
    results: dict[str, dict[int, Timed]] = {}
    for tokens in counts:
        for timed in times(shape, quant, tokens, platform, peak, held, without):
            if isinstance(timed, str):
                print(f"{quant:<24}{timed} (T={tokens})", flush=True)
            else:
                results.setdefault(timed.backend, {})[tokens] = timed
    print("\n".join(lines(quant, results, counts)), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [shape.name for shape in SHAPES]
    os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
    parser.add_argument("--shape", action="append", choices=names, help="one shape (all)")
    parser.add_argument("--quant", action="append", choices=list(QUANT.rows), help="one (all)")
    parser.add_argument("--tokens", type=int, action="append", help="one number (1, 64, 1024)")
    parser.add_argument("--quick", action="store_true", help="one shape, few methods, no loops")
    parser.add_argument("--tiny", action="store_true", help="one tiny shape, on a CPU, too")
    args = parser.parse_args()
    if not torch.cuda.is_available() and not args.tiny:
        print("bench-kernels needs a GPU; --tiny runs a tiny shape on a CPU, to try the script")
        return
    wanted = args.shape or ([QUICK_SHAPE] if args.quick else names)
    shapes = TINY if args.tiny else [s for s in SHAPES if s.name in wanted]
    counts = args.tokens or (TINY_TOKENS if args.tiny else QUICK_TOKENS if args.quick else TOKENS)
    quants = args.quant or (QUICK_METHODS if args.quick else list(QUANT.rows))
    with torch.inference_mode():
        bench(shapes, quants, counts, LOOPS if args.quick else ())


if __name__ == "__main__":
    main()
