"""Compile the kernels for other chips; no GPU is required.

The kernels' callers run on meta tensors inside `launch.recording`, so that exactly the launches of
a device are compiled: with the same block sizes, types and specialisation.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from moe.errors import MoEError
from moe.kernels.launch import FP_FUSION, INTERPRETED
from moe.kernels.specialisation import specialisation_of
from moe.need import resolve
from moe.platforms import PLATFORMS, platform

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.kernels.launch import Launch
    from moe.spec import TritonTarget

_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.float64: "fp64",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e4m3fnuz: "fp8e4b8",
    torch.float8_e5m2: "fp8e5",
    torch.bool: "i1",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}
_OPTIONS = ("num_warps", "num_stages")
_ALIGNED = ["tt.divisibility", 16]
_SMALL = ["tt.pointer_range", 32]  # AMD: offsets fit 32 bits, for buffer instructions
_SMALL_BYTES = (1 << 31) - 1


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
class Request:
    """One kernel to compile, of plain values, so that another process can record it.

    chip: a key of CHIPS. kernel: "package.module:name". signature, constants, attributes: of
    Triton's ASTSource. label: the kernel with its types and constants, for people. key: a hash of
    all that the binary depends on. specialisation: the line of `moe.kernels.specialisation`.
    """

    chip: str
    kernel: str
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    options: dict[str, int]
    label: str
    key: str
    specialisation: str = ""

    @property
    def name(self) -> str:
        """Return the kernel's name."""
        return self.kernel.rpartition(":")[2]

    def source(self) -> Any:
        """Return what Triton's compiler gets, an ASTSource."""
        kernel = resolve(self.kernel)
        return ASTSource(kernel, self.signature, self.constants, self.attributes)


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """One kernel compiled for one chip. shared_bytes: shared memory that a program uses.

    seconds: wall time; of a processor, where the kernel was compiled in a process of its own.
    warnings: what the compiler printed. refusal: why there is no binary, or None.
    """

    chip: str
    kernel: str
    label: str
    key: str
    shared_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()
    refusal: str | None = None


def compile_launches(launches: Iterable[Launch], chip: str) -> Iterator[Compiled]:
    """Compile `launches` for a chip of CHIPS, and yield each different binary once.

    Raises MoEError if kernels are interpreted in this process, and what the compiler raises.
    """
    if INTERPRETED:
        raise MoEError("kernels are interpreted in this process; unset TRITON_INTERPRET to compile")
    yield from map(compile_request, requests_of(launches, chip).values())


def requests_of(
    launches: Iterable[Launch], chip: str, known: set[Any] | None = None
) -> dict[str, Request]:
    """Return key -> request for a chip of CHIPS, each different binary once.

    known: what earlier calls have returned, which is left out; this call adds to it.
    """
    backend = CHIPS[chip].target.backend
    shapes = {(chip, *_signature(item, backend)): item for item in launches}
    known = set() if known is None else known
    requests = (request_of(item, chip) for of, item in shapes.items() if of not in known)
    new = {request.key: request for request in requests}
    known.update(shapes)
    return new


def request_of(item: Launch, chip: str) -> Request:
    """Return a launch as what Triton's compiler gets."""
    target = CHIPS[chip].target
    source, options = source_of(item, target.backend)
    parts = (source.hash(), sorted(options.items()), target, triton.__version__)
    return Request(
        chip=chip,
        kernel=f"{item.kernel.module}:{source.name}",
        signature=source.signature,
        constants=source.constants,
        attributes=source.attrs,
        options=options,
        label=_label(source, options),
        key=hashlib.sha256(repr(parts).encode()).hexdigest(),
        specialisation=specialisation_of(item.kernel, item.args, item.options),
    )


@triton.jit
def _empty():
    pass


def warm_up(chips: Iterable[str]) -> None:
    """Compile an empty kernel for each of these chips, so that children of this process start warm.

    Each process that compiles hashes Triton's own files and loads its backends first, which takes
    as long as compiling a kernel. chips: keys of CHIPS.
    """
    for chip in dict.fromkeys(chips):
        source = ASTSource(_empty, {}, {}, {})
        triton.compile(source, target=_target(chip), options={"enable_fp_fusion": FP_FUSION})


def _target(chip: str) -> GPUTarget:
    named = CHIPS[chip].target
    return GPUTarget(named.backend, named.arch, named.warp)


def compile_request(request: Request) -> Compiled:
    """Compile one kernel in this process."""
    start = time.monotonic()
    binary = triton.compile(request.source(), target=_target(request.chip), options=request.options)
    return Compiled(
        chip=request.chip,
        kernel=request.name,
        label=request.label,
        key=request.key,
        shared_bytes=binary.metadata.shared,
        seconds=round(time.monotonic() - start, 2),
    )


def source_of(item: Launch, backend: str = "cuda") -> tuple[Any, dict[str, int]]:
    """Return a launch as source and options of Triton's compiler, specialised as on a device.

    backend: of Triton, `cuda` or `hip`.
    """
    signature, constants, attributes = {}, {}, {}
    for index, (name, kind, value, hints) in enumerate(_arguments(item, backend)):
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        if hints:
            attributes[(index,)] = [list(hint) for hint in hints]
    options = {k: v for k, v in item.options.items() if k in _OPTIONS}
    options["enable_fp_fusion"] = FP_FUSION
    return ASTSource(item.kernel, signature, constants, attributes), options


def _arguments(item: Launch, backend: str) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (name, type, value, hints) of each parameter; a constant has the type `constexpr`."""
    names = item.kernel.arg_names
    constants = {k: v for k, v in item.options.items() if k not in _OPTIONS}
    values = dict(zip(names, item.args, strict=False)) | constants
    for parameter in item.kernel.params:
        value = values.get(parameter.name, parameter.default)
        fixed = parameter.is_constexpr or parameter.name in constants
        kind = "constexpr" if fixed else _kind(value, not parameter.do_not_specialize)
        hints = () if kind == "constexpr" else _hints(value, backend)
        plain = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        yield parameter.name, kind, value, () if plain else hints


def _signature(item: Launch, backend: str) -> tuple[Any, ...]:
    """Return what tells two launches' binaries apart, without the cost of a source's hash."""
    described = (
        (kind, repr(value) if kind == "constexpr" else None, repr(hints))
        for _, kind, value, hints in _arguments(item, backend)
    )
    options = tuple((k, item.options[k]) for k in _OPTIONS if k in item.options)
    return (id(item.kernel), *described, options)


def _kind(value: Any, specialised: bool) -> str:
    """Return the type of an argument as Triton names it."""
    if isinstance(value, torch.Tensor):
        if value.dtype not in _TYPES:
            raise MoEError(f"no type of Triton's is known for a tensor of {value.dtype}")
        return f"*{_TYPES[value.dtype]}"
    if value is None or (specialised and isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, bool):
        return "u1"
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(1 << 31) <= value < 1 << 31 else "i64"


def _hints(value: Any, backend: str) -> tuple[Any, ...]:
    """Return what Triton's launcher tells the compiler about an argument: alignment and range."""
    if isinstance(value, torch.Tensor):
        aligned = value.storage_offset() * value.element_size() % 16 == 0
        size = math.prod(value.shape) * value.element_size()
        small = backend == "hip" and size <= _SMALL_BYTES
        return (*((_ALIGNED,) if aligned else ()), *((_SMALL,) if small else ()))
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    return (_ALIGNED,) if is_integer and value % 16 == 0 else ()


def _label(source: Any, options: dict[str, int]) -> str:
    """Return `kernel(types; CONSTANTS; options)`."""
    names = source.fn.arg_names
    types = [kind for kind in source.signature.values() if kind != "constexpr"]
    constants = [f"{names[at[0]]}={value}" for at, value in source.constants.items()]
    tuned = [f"{k}={v}" for k, v in options.items() if k in _OPTIONS]
    parts = (" ".join(part) for part in (types, constants, tuned))
    return f"{source.name}({'; '.join(filter(None, parts))})"
