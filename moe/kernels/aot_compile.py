"""Compile the kernels for other chips; no GPU is required.

The kernels' callers run on meta tensors inside `launch.recording`, so that exactly the launches of
a device are compiled: with the same block sizes, types and specialisation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moe.errors import MoEError
from moe.kernels.launch import FP_FUSION, INTERPRETED
from moe.platforms import PLATFORMS, platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.kernels.launch import Launch
    from moe.spec import TritonTarget

_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.float8_e4m3fnuz: "*fp8e4b8",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """target: for Triton's compiler. shared_bytes: shared memory available to a program."""

    target: TritonTarget
    shared_bytes: int


def _chips() -> dict[str, Chip]:
    """Return arch -> chip, of the platforms for which Triton compiles."""
    chips = {}
    for row in PLATFORMS.built_in:
        chip = platform(row.name)
        if chip.triton_target is not None and chip.shared_bytes is not None:
            chips[row.arch] = Chip(target=chip.triton_target, shared_bytes=chip.shared_bytes)
    return chips


CHIPS = _chips()


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One kernel compiled for one chip. shared_bytes: shared memory that a program uses."""

    chip: str
    kernel: str
    shared_bytes: int
    seconds: float


def compile_launches(launches: Iterable[Launch], chip: str) -> Iterator[Compiled]:
    """Compile `launches` for a chip of CHIPS, and yield each different binary once.

    Raises MoEError if kernels are interpreted in this process.
    """
    if INTERPRETED:
        raise MoEError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile")
    compiled = set()
    for item in launches:
        source, options = source_of(item)
        key = (source.hash(), *sorted(options.items()))
        if key not in compiled:
            compiled.add(key)
            yield _compile(source, options, chip)


def _compile(source: Any, options: dict[str, int], chip: str) -> Compiled:
    """Compile one kernel. chip: a key of CHIPS."""
    named = CHIPS[chip].target
    target = GPUTarget(named.backend, named.arch, named.warp)
    start = time.monotonic()
    binary = triton.compile(source, target=target, options=options)
    return Compiled(
        chip=chip,
        kernel=source.name,
        shared_bytes=binary.metadata.shared,
        seconds=round(time.monotonic() - start, 2),
    )


def source_of(item: Launch) -> tuple[Any, dict[str, int]]:
    """Return a launch as source and options of Triton's compiler, specialised as on a device."""
    options = {k: v for k, v in item.options.items() if k in _OPTIONS}
    options["enable_fp_fusion"] = FP_FUSION
    constexprs = {k: v for k, v in item.options.items() if k not in _OPTIONS}
    names = item.kernel.arg_names
    values = dict(zip(names, item.args, strict=False)) | constexprs
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(names):
        signature[name], is_constant, divisible = _kind(values[name], name in constexprs)
        if is_constant:
            constants[name] = values[name]
        if divisible:
            attributes[(index,)] = [["tt.divisibility", 16]]
    return ASTSource(item.kernel, signature, constants, attributes), options


def _kind(value: Any, constant: bool) -> tuple[str, bool, bool]:
    """Return (type, whether constant, whether a multiple of 16), as Triton specialises a value."""
    if constant or value is None or (isinstance(value, int) and value == 1):
        return "constexpr", True, False
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype], False, True
    return ("i32" if abs(value) < 1 << 31 else "i64"), False, value % 16 == 0
