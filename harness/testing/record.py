"""Record the calls of a running MoE layer as workloads in the format of FlashInfer Trace.

`run --trace PATH` repeats them with any member; flashinfer-bench reads them as well.
"""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import UsageError
from harness.testing.trace_definition import RecordedLayer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

GATES = ("gate", "router")  # names of the module that returns router logits
MAX_CALLS = 16


@contextmanager
def record(
    module: nn.Module, path: str | Path, *, max_calls: int = MAX_CALLS
) -> Iterator[list[str]]:
    """Record calls of an MoE layer inside this context; yield a list of their uuids that grows.

    module: a block with a module `experts` that is called with hidden states [T, K], ids [T, k] and
    weights [T, k], as those of transformers are, and a parameter `down_proj` [E, K, N] in it.
    Router logits [T, E] are recorded too, if its module `gate` or `router` returns them.
    path: the folder of a data set, made if missing; a recording adds to it and overwrites nothing.
    max_calls: later calls are not recorded, nor are those without tokens.

    Raises UsageError for a module without such experts, and at its first call for other arguments.
    """
    recorder = _Recorder(module, Path(path), max_calls)
    handles = [
        recorder.experts.register_forward_pre_hook(recorder.before_experts, with_kwargs=True)
    ]
    gate = next((child for n, child in module.named_children() if n in GATES), None)
    if gate is not None:
        handles.append(gate.register_forward_hook(recorder.after_gate))
    try:
        yield recorder.uuids
    finally:
        for handle in handles:
            handle.remove()


class _Recorder:
    """Write each call of a block's experts as one workload."""

    def __init__(self, module: nn.Module, path: Path, max_calls: int) -> None:
        experts = getattr(module, "experts", None)
        down = getattr(experts, "down_proj", None)
        if experts is None or getattr(down, "ndim", None) != 3:
            raise UsageError(
                f"cannot record {type(module).__name__}: it needs a module `experts` with a "
                "parameter `down_proj` [E, K, N]; give the MoE block, not the model"
            )
        self.experts: nn.Module = experts
        self.uuids: list[str] = []
        self._sizes: tuple[int, int, int] = tuple(down.shape)  # type: ignore[union-attr]
        self._path, self._max_calls = path, max_calls
        self._logits: Tensor | None = None

    def after_gate(self, module: nn.Module, arguments: Any, output: Any) -> None:
        """Keep router logits [T, E] for the call of the experts that follows."""
        del module, arguments
        outputs = output if isinstance(output, tuple) else (output,)
        self._logits = next((t for t in outputs if self._is_logits(t)), None)

    def before_experts(
        self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        """Write the arguments of a call."""
        del module
        of_call = [t for t in (*arguments, *named.values()) if isinstance(t, torch.Tensor)]
        logits, self._logits = self._logits, None
        tensors = _by_role(of_call) | ({} if logits is None else {"gating_output": logits})
        if len(tensors["hidden_states"]) and len(self.uuids) < self._max_calls:
            self.uuids.append(self._write(tensors))

    def _is_logits(self, value: object) -> bool:
        is_matrix = isinstance(value, torch.Tensor) and value.ndim == 2
        return is_matrix and value.shape[1] == self._sizes[0] and value.is_floating_point()  # type: ignore[attr-defined]

    def _write(self, tensors: dict[str, Tensor]) -> str:
        """Write one workload; return its uuid."""
        from safetensors.torch import save_file

        layer = self._layer(tensors)
        self._write_definition(layer)
        number = str(uuid.uuid4())
        blob = Path("blob/workloads/moe") / layer.name / f"{layer.name}_{number}.safetensors"
        (self._path / blob).parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, self._path / blob)
        line = {
            "definition": layer.name,
            "workload": {
                "uuid": number,
                "axes": {"seq_len": len(tensors["hidden_states"])},
                "inputs": _inputs(layer, tensors, blob),
            },
            "solution": None,
            "evaluation": None,
        }
        file = self._path / "workloads/moe" / f"{layer.name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
        return number

    def _layer(self, tensors: dict[str, Tensor]) -> RecordedLayer:
        experts, hidden, intermediate = self._sizes
        logits = tensors.get("gating_output")
        return RecordedLayer(
            hidden=hidden,
            intermediate=intermediate,
            experts=experts,
            top_k=tensors["topk_ids"].shape[1],
            dtype=_name(tensors["hidden_states"]),
            weights=_name(tensors["topk_weights"]),
            logits=None if logits is None else _name(logits),
        )

    def _write_definition(self, layer: RecordedLayer) -> None:
        """Write the definition, unless the folder has it. Raises UsageError if it has another."""
        file = self._path / "definitions/moe" / f"{layer.name}.json"
        text = json.dumps(layer.definition(), indent=2) + "\n"
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise UsageError(f"{str(file)!r} is another definition; record into a new folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


def _by_role(tensors: list[Tensor]) -> dict[str, Tensor]:
    """Return hidden states, ids (int32) and weights among the arguments of experts."""
    ids = [t for t in tensors if t.ndim == 2 and not t.dtype.is_floating_point]
    floats = [t for t in tensors if t.ndim == 2 and t.dtype.is_floating_point]
    weights = [t for t in floats[1:] if ids and t.shape == ids[0].shape]
    if len(ids) != 1 or len(weights) != 1:
        shapes = ", ".join(f"{t.dtype} {list(t.shape)}" for t in tensors) or "no tensors"
        rule = "experts are recorded that get hidden states [T, K], ids and weights [T, k]"
        raise UsageError(f"{rule}; these get {shapes}")
    return {
        "hidden_states": floats[0],
        "topk_ids": ids[0].to(torch.int32),
        "topk_weights": weights[0],
    }


def _inputs(layer: RecordedLayer, tensors: dict[str, Tensor], blob: Path) -> dict[str, Any]:
    """Return where each input of the definition is: in the file, or nowhere, as the weights."""
    stored = {"type": "safetensors", "path": f"./{blob.as_posix()}"}
    return {
        name: {**stored, "tensor_key": name} if name in tensors else {"type": "random"}
        for name in layer.definition()["inputs"]
    }


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
