"""Compile the kernels for chips that are not here; no GPU is needed.

The kernels' own callers run on meta tensors while `launch.recording` writes their launches
down, so what is compiled is what a device would be asked to run: the same block sizes, types
and specialisation.
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.kernels.launch import Launch

KIB = 1024
_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}
_OPTIONS = ("num_warps", "num_stages")


@dataclass(frozen=True, kw_only=True)
class Chip:
    """backend, arch, warp: as Triton names them. shared_bytes: what one program may use."""

    backend: str
    arch: int | str
    warp: int
    shared_bytes: int


CHIPS = {
    "sm90": Chip(backend="cuda", arch=90, warp=32, shared_bytes=227 * KIB),
    "sm100": Chip(backend="cuda", arch=100, warp=32, shared_bytes=227 * KIB),
    "gfx942": Chip(backend="hip", arch="gfx942", warp=64, shared_bytes=64 * KIB),
    "gfx950": Chip(backend="hip", arch="gfx950", warp=64, shared_bytes=160 * KIB),
}


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One kernel for one chip. shared_bytes: that a program of it uses."""

    chip: str
    kernel: str
    shared_bytes: int
    seconds: float


def compile_launches(launches: Iterable[Launch], chip: str) -> Iterator[Compiled]:
    """Compile each of `launches` for a key of CHIPS, those that need the same binary once.

    Raises MoEError when kernels are interpreted in this process.
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
    it = CHIPS[chip]
    start = time.monotonic()
    binary = triton.compile(source, target=GPUTarget(it.backend, it.arch, it.warp), options=options)
    return Compiled(
        chip=chip,
        kernel=source.name,
        shared_bytes=binary.metadata.shared,
        seconds=round(time.monotonic() - start, 2),
    )


def source_of(item: Launch) -> tuple[Any, dict[str, int]]:
    """The launch as Triton's compiler takes it, specialised as a real start would be."""
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
    """(type, is it a constant, is it a multiple of 16) as Triton specialises an argument."""
    if constant or value is None or (isinstance(value, int) and value == 1):
        return "constexpr", True, False
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype], False, True
    return ("i32" if abs(value) < 1 << 31 else "i64"), False, value % 16 == 0
