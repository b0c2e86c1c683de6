"""Record what an operation of an interpreted kernel calls of Triton's builder.

`moe.kernels.interpreter_replay` repeats it. Handles stand for the operation's tensors meanwhile, so
that it shows which call takes which result, and whether the operation looked at a number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from triton.runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MOST_CONSTANT_BYTES = 1 << 12  # larger constant tensors are computed each time
_CONSTANT_IF_ARGUMENTS_ARE = ("create_splat", "create_make_range", "create_int_cast")


class RecordedHandle:
    """Stand for the handle of a tensor while an operation is recorded.

    number: its place among the handles of the recording; None: a constant, the same each time.
    """

    def __init__(self, handle: Any, number: int | None, recording: Recording) -> None:
        """Store the handle."""
        self.handle = handle
        self.number = number
        self._recording = recording

    @property
    def data(self) -> Any:
        """Return the numbers. Whoever reads a single one may decide by it, as `bool` does."""
        if self.number is not None and self.handle.data.size == 1:
            self._recording.is_repeatable = False
        return self.handle.data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.handle, name)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call of the builder. arguments: None in `places`, (argument, handle number) pairs."""

    method: Callable[..., Any]
    arguments: list[Any]
    places: tuple[tuple[int, int], ...]


@dataclass
class Recording:
    """What an operation called, and what it returned; handles are numbered, inputs first."""

    count: int  # of handles
    steps: list[Step] = field(default_factory=list)
    is_repeatable: bool = True
    make_result: Callable[[list[Any], Sequence[Any]], Any] | None = None

    def handle(self, handle: Any) -> RecordedHandle:
        """Return the next result of the steps."""
        self.count += 1
        return RecordedHandle(handle, self.count - 1, self)


class RecordingBuilder:
    """Call Triton's builder and record each call."""

    def __init__(self, builder: Any, recording: Recording) -> None:
        """Store both."""
        self._builder = builder
        self._recording = recording

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._builder, name)
        if not callable(value):
            return value
        return lambda *args, **options: self._called(name, value, args, options)

    def _called(
        self, name: str, method: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]
    ) -> Any:
        recording = self._recording
        places = tuple((i, a.number) for i, a in enumerate(args) if _is_variable(a))
        if options or any(map(_holds_handles, args)):
            recording.is_repeatable = False
        result = method(*map(real, args), **{k: real(v) for k, v in options.items()})
        if not places and _is_constant(name, result):
            return _constant(result, recording)
        arguments = [None if _is_variable(a) else real(a) for a in args]
        recording.steps.append(Step(method=method, arguments=arguments, places=places))
        if isinstance(result, tuple):
            return tuple(map(recording.handle, result))
        handle = recording.handle(result)
        return None if result is None else handle


def _is_variable(argument: Any) -> bool:
    return isinstance(argument, RecordedHandle) and argument.number is not None


def _holds_handles(argument: Any) -> bool:
    """Return whether an argument holds handles that a step could not put in again."""
    if isinstance(argument, (list, tuple)):
        return any(isinstance(a, RecordedHandle) or _holds_handles(a) for a in argument)
    return isinstance(argument, interpreter.TensorHandle)  # of a tensor that nobody recorded


def real(argument: Any) -> Any:
    """Return an argument with the handles themselves."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(real, argument))
    return argument.handle if isinstance(argument, RecordedHandle) else argument


def _is_constant(name: str, result: Any) -> bool:
    """Return whether a call whose arguments are constants returns the same each time."""
    if not (name.startswith("get_") or name in _CONSTANT_IF_ARGUMENTS_ARE):
        return False
    data = getattr(result, "data", None)
    return data is None or data.nbytes <= MOST_CONSTANT_BYTES


def _constant(result: Any, recording: Recording) -> Any:
    is_handle = isinstance(result, interpreter.TensorHandle)
    return RecordedHandle(result, None, recording) if is_handle else result
