"""Check what torch.compile needs of a custom operator: a true schema, true fake shapes, one graph.

A kernel that is wrong here gives right numbers in a test that calls it, and wrong ones, another
graph or a compilation for each number of tokens once a model around it is compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch._dynamo
from torch.utils._pytree import tree_leaves, tree_map

from harness.errors import UsageError
from moe.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

ARGUMENTS = tuple[Any, ...]
# Loaded by name: torch annotates neither.
FakeTensorMode: Any = resolve("torch._subclasses.fake_tensor:FakeTensorMode")
CompileCounter: Any = resolve("torch._dynamo.testing:CompileCounter")


def check_op(op: Callable[..., Any], calls: Sequence[ARGUMENTS]) -> None:
    """Check the contract of a custom operator, such as `torch.ops.mine.experts.default`.

    calls: positional arguments of at least two calls that differ in the number of tokens T, with
    T of 2 and more. Each call gets copies of its tensors. Checked are

    - `torch.library.opcheck`: schema, mutations, fake kernel, AOT dispatch;
    - each output under fake tensors: shape, strides, dtype and device of the real one;
    - `torch.compile`: one graph, compiled once for all calls, sizes that differ being dynamic.

    Raises AssertionError with a line for each breach, and UsageError for calls that cannot show it.
    """
    _check_calls(calls)
    lines = [*_opcheck_errors(op, calls), *fake_errors(op, calls), *compile_errors(op, calls)]
    if lines:
        raise AssertionError("\n".join((f"{op} breaks its contract:", *lines)))


def _check_calls(calls: Sequence[ARGUMENTS]) -> None:
    shapes = {tuple(t.shape for t in _tensors(call)) for call in calls}
    if len(shapes) < 2:
        text = "give calls of at least two sizes, such as T = 2, 5 and 16"
        raise UsageError(f"{len(calls)} call(s) with {len(shapes)} size(s) show nothing; {text}")
    if len({len(shape) for shape in shapes}) > 1:
        raise UsageError("all calls must have the same number of tensors")


def _tensors(call: ARGUMENTS) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(call) if isinstance(leaf, torch.Tensor)]


def _copied(call: ARGUMENTS) -> ARGUMENTS:
    copy: ARGUMENTS = tree_map(lambda v: v.clone() if isinstance(v, torch.Tensor) else v, call)
    return copy


def _opcheck_errors(op: Callable[..., Any], calls: Sequence[ARGUMENTS]) -> Iterator[str]:
    """Yield a line for each test of `torch.library.opcheck` that a call fails."""
    for number, call in enumerate(calls):
        results = torch.library.opcheck(op, _copied(call), raise_exception=False)  # type: ignore[arg-type]
        for name, result in results.items():
            if result != "SUCCESS":
                yield f"call {number}: opcheck {name}: {_first_line(result)}"


def fake_errors(op: Callable[..., Any], calls: Sequence[ARGUMENTS]) -> Iterator[str]:
    """Yield a line for each output that differs under fake tensors in more than its values."""
    for number, call in enumerate(calls):
        real = [_described(t) for t in _tensors((op(*_copied(call)),))]
        try:
            with FakeTensorMode() as mode:
                fakes = tree_map(_faked(mode), call)
                fake = [_described(t) for t in _tensors((op(*fakes),))]
        except Exception as error:  # whatever its fake kernel raises
            yield f"call {number}: raises under fake tensors: {_first_line(error)}"
            continue
        if fake != real:
            yield f"call {number}: returns {real}, and under fake tensors {fake}"


def _faked(mode: Any) -> Callable[[Any], Any]:
    return lambda value: mode.from_tensor(value) if isinstance(value, torch.Tensor) else value


def _described(tensor: Tensor) -> tuple[list[int], list[int], torch.dtype, str]:
    return list(tensor.shape), list(tensor.stride()), tensor.dtype, tensor.device.type


def compile_errors(op: Callable[..., Any], calls: Sequence[ARGUMENTS]) -> Iterator[str]:
    """Yield a line if the operator breaks the graph, or is compiled again for another size."""
    torch._dynamo.reset()
    counter = CompileCounter()

    def call_op(*arguments: Any) -> Any:
        return op(*arguments)

    compiled = torch.compile(call_op, backend=counter, fullgraph=True)
    dynamic = _dynamic_sizes(calls)
    try:
        for call in calls:
            copies = _copied(call)
            for tensor, sizes in zip(_tensors(copies), dynamic, strict=True):
                for size in sizes:
                    torch._dynamo.mark_dynamic(tensor, size)
            compiled(*copies)
    except Exception as error:  # of dynamo, or of the operator
        yield f"does not compile into one graph: {_first_line(error)}"
    else:
        if counter.frame_count > 1:
            shapes = [[list(t.shape) for t in _tensors(call)] for call in calls]
            yield f"is compiled {counter.frame_count} times for the sizes {shapes}, not once"
    finally:
        torch._dynamo.reset()


def _dynamic_sizes(calls: Sequence[ARGUMENTS]) -> list[list[int]]:
    """Return, for each tensor of a call, the dimensions in which calls differ."""
    columns = zip(*(_tensors(call) for call in calls), strict=True)
    return [
        [i for i in range(same[0].ndim) if len({t.shape[i] for t in same}) > 1] for same in columns
    ]


def _first_line(error: object) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
