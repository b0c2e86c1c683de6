"""Read a data set of FlashInfer Trace from its folder, and check every workload of an MoE layer.

`definitions/` has one JSON file for each operation, `workloads/` JSON lines; paths of safetensors
files are relative to the data set's folder and must not leave it. All errors are reported at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from harness.errors import ConfigError, UsageError
from harness.matrix import file_errors
from harness.matrix.traces.tensor_header import StoredTensor, read_header
from harness.matrix.traces.trace_format import (
    STORED,
    Definition,
    RandomInput,
    ScalarInput,
    TensorInput,
    TensorSpec,
    TraceLine,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

M = TypeVar("M", bound=BaseModel)
DEFINITIONS, WORKLOADS, MOE = "definitions", "workloads", "moe"


@dataclass(frozen=True, kw_only=True)
class RecordedWorkload:
    """A workload with its definition. root: the data set's folder, without links."""

    definition: Definition
    line: TraceLine
    root: Path

    @property
    def sizes(self) -> dict[str, int]:
        """Return the value of every axis."""
        return self.definition.sizes | self.line.workload.axes

    def stored(self, name: str) -> tuple[Path, str] | None:
        """Return the file and key of a recorded input, or None if it has no recorded values."""
        entry = self.line.workload.inputs.get(name)
        return (
            (self.root / entry.path, entry.tensor_key) if isinstance(entry, TensorInput) else None
        )

    def scalar(self, name: str) -> float | None:
        """Return the value of a scalar input, or None if the workload gives none."""
        entry = self.line.workload.inputs.get(name)
        return float(entry.value) if isinstance(entry, ScalarInput) else None


@dataclass(frozen=True, kw_only=True)
class TraceFolder:
    """The MoE workloads of a data set. others: its definitions of other operations."""

    workloads: tuple[RecordedWorkload, ...]
    others: int = 0


def read_folder(path: Path) -> TraceFolder:
    """Return the MoE workloads of the data set in a folder, each once.

    Raises ConfigError with one line for each error in it, and UsageError if it is not a data set.
    """
    if not (path / DEFINITIONS).is_dir():
        raise UsageError(
            f"--trace {str(path)!r} is not a data set of FlashInfer Trace: it has no folder "
            f"{DEFINITIONS!r}; give the folder that holds {DEFINITIONS!r} and {WORKLOADS!r}"
        )
    errors: list[str] = []
    definitions = _definitions(path, errors)
    root, workloads = path.resolve(), {}
    for place, line in _lines(path, errors):
        definition = definitions.get(line.definition)
        if definition is None:
            known = file_errors.hint(line.definition, list(definitions))
            errors.append(f"{place}: no definition is called {line.definition!r}{known}")
        elif definition.op_type == MOE:
            workload = RecordedWorkload(definition=definition, line=line, root=root)
            errors += [f"{place}: {text}" for text in workload_errors(workload)]
            workloads[line.digest] = workload
    if errors:
        raise ConfigError(errors)
    others = sum(definition.op_type != MOE for definition in definitions.values())
    return TraceFolder(workloads=tuple(workloads.values()), others=others)


def _definitions(path: Path, errors: list[str]) -> dict[str, Definition]:
    """Return the definitions by name; add a line to `errors` for each wrong one."""
    by_name: dict[str, Definition] = {}
    for file in sorted((path / DEFINITIONS).rglob("*.json")):
        definition = _parsed(Definition, file_errors.read(file, "definition"), str(file), errors)
        if definition is None:
            continue
        if definition.name in by_name:
            errors.append(f"{file}: a second definition is called {definition.name!r}")
        errors += [f"{file}: {text}" for text in _undefined_axes(definition)]
        by_name[definition.name] = definition
    return by_name


def _undefined_axes(definition: Definition) -> Iterator[str]:
    for name, spec in (definition.inputs | definition.outputs).items():
        for axis in spec.shape or ():
            if axis not in definition.axes:
                yield f"{name} has the axis {axis!r}, which `axes` does not define"


def _lines(path: Path, errors: list[str]) -> Iterator[tuple[str, TraceLine]]:
    """Yield each line of the files of workloads with its place."""
    for file in sorted((path / WORKLOADS).rglob("*.jsonl")):
        for number, text in enumerate(file_errors.read(file, "workloads").splitlines(), start=1):
            place = f"{file}:{number}"
            line = _parsed(TraceLine, text, place, errors) if text.strip() else None
            if line is not None:
                yield place, line


def _parsed(kind: type[M], text: str, place: str, errors: list[str]) -> M | None:
    """Return the checked JSON of one object, or None after adding lines to `errors`."""
    try:
        return kind.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        errors.append(f"{place}: is not JSON: {error.msg} at column {error.colno}")
    except ValidationError as error:
        errors += [f"{place}: {_plain(detail)}" for detail in error.errors(include_url=False)]
    return None


def _plain(detail: Any) -> str:
    """Return one of pydantic's errors in plain words, behind the path of the value."""
    place = tuple(str(part) for part in detail["loc"])
    text = file_errors.plain(detail["type"], place, detail.get("ctx", {}), detail["input"], ())
    return f"{'.'.join(place) or 'the line'}: {text or detail['msg']}"


def workload_errors(workload: RecordedWorkload) -> Iterator[str]:
    """Yield what does not fit between a workload, its definition and its files."""
    definition, given = workload.definition, workload.line.workload
    for axis in definition.variable_axes:
        if axis not in given.axes:
            yield f"axes lacks {axis!r}, which definition {definition.name!r} leaves open"
    for axis in given.axes:
        if axis not in definition.variable_axes:
            yield f"axes has {axis!r}, which definition {definition.name!r} does not leave open"
    for name in given.inputs:
        if name not in definition.inputs:
            yield f"inputs has {name!r}, which definition {definition.name!r} does not name"
    for name, spec in definition.inputs.items():
        text = _input_error(workload, name, spec)
        if text is not None:
            yield f"inputs.{name}: {text}"


def _input_error(workload: RecordedWorkload, name: str, spec: TensorSpec) -> str | None:
    entry = workload.line.workload.inputs.get(name)
    if entry is None:
        return "is missing; give its type, such as random"
    if isinstance(entry, RandomInput):
        return None
    if isinstance(entry, ScalarInput) or spec.shape is None:
        fits = isinstance(entry, ScalarInput) and spec.shape is None
        kind = "a scalar" if spec.shape is None else "a tensor"
        return None if fits else f"is {kind} in the definition, but of type {entry.type!r}"
    try:
        return _tensor_error(workload, entry, spec)
    except UsageError as error:
        return str(error)


def _tensor_error(workload: RecordedWorkload, entry: TensorInput, spec: TensorSpec) -> str | None:
    file = workload.root / entry.path
    if Path(entry.path).is_absolute() or not file.resolve().is_relative_to(workload.root):
        return (
            f"the path {entry.path!r} leads out of the data set; keep its files inside, as files "
            "rather than links"
        )
    header = read_header(file)
    if entry.tensor_key not in header:
        known = ", ".join(header) or "none"
        return f"{entry.path} has no tensor {entry.tensor_key!r} (it has: {known})"
    sizes = workload.sizes
    if not all(axis in sizes for axis in spec.shape or ()):
        return None  # reported with the axes
    shape = tuple(sizes[axis] for axis in spec.shape or ())
    expected = StoredTensor(dtype=STORED.get(spec.dtype, spec.dtype), shape=shape)
    stored = header[entry.tensor_key]
    if stored == expected:
        return None
    return (
        f"{entry.path} holds {stored.dtype} {list(stored.shape)}, and the definition says "
        f"{expected.dtype} {list(shape)} ({', '.join(spec.shape or ())})"
    )
