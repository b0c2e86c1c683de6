"""Repeat operations of interpreted kernels without Triton's checks of their types.

An operation of `triton.language`, such as a sum, first checks and promotes types, broadcasts shapes
and converts constants, and then calls a few functions of the interpreter's builder, which compute
with numpy. Which ones depends on the types and the constants alone, so the calls are recorded once
for each combination and repeated from then on: with the same bits, in a third of the time. An
operation that looks at a number while it decides is not repeated but left to Triton each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton.language as tl
from triton.runtime import interpreter

from moe.kernels.interpreter_recording import (
    RecordedHandle,
    Recording,
    RecordingBuilder,
    real,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Function = Any  # of Triton, or in place of one
Key = tuple[Any, ...]
MOST_RECORDINGS = 4096  # of one operation; then all are dropped, so that memory stays bounded
_PLAIN = (int, bool, str, type(None))
_SEQUENCES = (tuple, list, tl.tuple)
_NOT_RECORDED = object()


class NotDescribedError(Exception):
    """An argument that no key can stand for, such as a function or a tuple of tensors."""


_active: list[Any] = []  # the semantic of the operation that is being recorded, if there is one


def replayed(patch: Function) -> Function:
    """Return `_patch_attr` that replaces a function of the language by one that repeats steps."""
    operations: dict[Any, Function] = {}

    def patch_attr(obj: Any, name: str, member: Any, builder: Any, scope: Any) -> None:
        patch(obj, name, member, builder, scope)
        if member not in operations:
            operations[member] = operation_of(member, builder)
        setattr(obj, name, operations[member])

    return patch_attr


def operation_of(member: Function, builder: Any) -> Function:
    """Return a function of `triton.language` as a kernel calls it, with its steps recorded."""
    recordings: dict[Key, Any] = {}

    def operation(*args: Any, **options: Any) -> Any:
        options.pop("_semantic", None)
        if _active:
            return member(*args, **options, _semantic=_active[-1])
        tensors: list[Any] = []
        try:
            key = _key(args, options, builder.options, tensors)
        except NotDescribedError:
            return member(*args, **options, _semantic=interpreter.interpreter_semantic)
        recording = recordings.get(key, _NOT_RECORDED)
        if recording is None:
            return member(*args, **options, _semantic=interpreter.interpreter_semantic)
        if recording is not _NOT_RECORDED:
            return repeat(recording, tensors)
        if len(recordings) >= MOST_RECORDINGS:
            recordings.clear()
        result, recordings[key] = recorded(member, args, options, tensors, builder)
        return result

    return operation


def _key(args: Any, options: dict[str, Any], of_builder: Any, tensors: list[Any]) -> Key:
    """Return what decides the steps; append the tensors among the arguments to `tensors`."""
    words: list[Any] = [of_builder.sanitize_overflow, of_builder.debug]
    for value in args:
        if type(value) is tl.tensor:
            tensors.append(value)
            words.append(value.type.name)
        else:
            words.append(_described(value))
    for name, value in options.items():
        words.append(name)
        if type(value) is tl.tensor:
            tensors.append(value)
            words.append(value.type.name)
        else:
            words.append(_described(value))
    return tuple(words)


def _described(value: Any) -> Any:
    """Return what stands for a constant: 1, True and 1.0 differ, as do 0.0 and -0.0."""
    kind = type(value)
    if kind is tl.constexpr:
        return kind, _described(value.value)
    if kind in _PLAIN:
        return kind, value
    if kind is float:
        return kind, value.hex()
    if isinstance(value, tl.dtype):
        return kind, value.name
    if kind in _SEQUENCES:
        return kind, *map(_described, value)
    if kind is slice:
        return kind, _described(value.start), _described(value.stop), _described(value.step)
    raise NotDescribedError


def recorded(
    member: Function, args: Any, options: dict[str, Any], tensors: list[Any], builder: Any
) -> tuple[Any, Recording | None]:
    """Return the result of an operation, and its recording; None if it cannot be repeated."""
    recording = Recording(count=len(tensors))
    stands_for = [
        tl.tensor(RecordedHandle(t.handle, i, recording), t.type) for i, t in enumerate(tensors)
    ]
    # By place, not by tensor: x * x is recorded as the product of two.
    of_place = iter(stands_for)
    semantic = type(interpreter.interpreter_semantic)(RecordingBuilder(builder, recording))
    _active.append(semantic)
    try:
        result = member(
            *[next(of_place) if type(a) is tl.tensor else a for a in args],
            **{n: next(of_place) if type(a) is tl.tensor else a for n, a in options.items()},
            _semantic=semantic,
        )
    finally:
        _active.pop()
    recording.make_result = _maker(result, stands_for, recording)
    returned = _real_result(result, stands_for, tensors)
    return returned, recording if recording.is_repeatable else None


def _real_result(result: Any, stands_for: list[Any], tensors: list[Any]) -> Any:
    """Return the result with the handles themselves, and arguments as they were given."""
    if isinstance(result, tuple):
        return tuple(_real_result(r, stands_for, tensors) for r in result)
    if not isinstance(result, tl.tensor):
        return result
    for stand_in, tensor in zip(stands_for, tensors, strict=True):
        if result is stand_in:
            return tensor
    return tl.tensor(real(result.handle), result.type)


def _maker(result: Any, stands_for: list[Any], recording: Recording) -> Callable[..., Any]:
    """Return a function that makes the result of the handles of a repetition and its tensors."""
    if isinstance(result, tuple):
        makers = [_maker(r, stands_for, recording) for r in result]
        return lambda handles, tensors: tuple(make(handles, tensors) for make in makers)
    if not isinstance(result, tl.tensor):
        if not (result is None or isinstance(result, (*_PLAIN, float, tl.constexpr, tl.dtype))):
            recording.is_repeatable = False
        return lambda handles, tensors: result
    for i, stand_in in enumerate(stands_for):
        if result is stand_in:
            return lambda handles, tensors: tensors[i]
    handle, of_type = result.handle, result.type
    if handle is not None and not isinstance(handle, RecordedHandle):
        recording.is_repeatable = False  # made of numbers, without the builder
    elif handle is not None and handle.number is not None:
        number = handle.number
        return lambda handles, tensors: tl.tensor(handles[number], of_type)
    constant = real(handle)
    return lambda handles, tensors: tl.tensor(constant, of_type)


def repeat(recording: Recording, tensors: Sequence[Any]) -> Any:
    """Return the result of a recorded operation on other tensors of the same types."""
    handles = [tensor.handle for tensor in tensors]
    for step in recording.steps:
        arguments = step.arguments.copy()
        for place, number in step.places:
            arguments[place] = handles[number]
        result = step.method(*arguments)
        if type(result) is tuple:
            handles.extend(result)
        else:
            handles.append(result)
    assert recording.make_result is not None
    return recording.make_result(handles, tensors)
