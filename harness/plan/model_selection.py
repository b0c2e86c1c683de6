"""Select the cases of a real model: `--model NAME`, or the path of somebody's config.json.

`--layouts`, `--tokens` and `--quant` go with it. No torch.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.matrix.layout_words import parse_layouts
from harness.matrix.model_cases import points_of
from moe.quant import QUANT

if TYPE_CHECKING:
    import argparse

    from harness.matrix.case import MoETestConfig
    from harness.matrix.model_facts import ModelFacts

LAYOUTS = "tp:1,ep:8/1"  # one rank with all experts, and one rank of eight with its share
TOKENS = "1,16,512"  # a decode, a batch of decodes, a prefill
MAX_TOKENS = 2**20
SHARE_EXPERTS, SHARE_TOKENS = 8, 16  # of the small cases in which `numerics` compares roundings
TIME_LIMIT = 300.0  # seconds a case may take: real sizes on a CPU take a minute
_OPTIONS = ("layouts", "tokens", "quant")


@dataclass(frozen=True, kw_only=True)
class ModelPoints:
    """The cases of one model. note: its facts, as one line; max_tokens: the largest of --tokens."""

    name: str
    points: tuple[MoETestConfig, ...]
    note: str
    max_tokens: int


def of_model(args: argparse.Namespace) -> ModelPoints | None:
    """Return the cases that --model asks for, or None without it.

    Raises UsageError for options that go with --model and are invalid, or stand without it.
    """
    check_options(args)
    if args.model is None:
        return None
    name, facts = facts_of(args.model)
    tokens = parse_tokens(TOKENS if args.tokens is None else args.tokens)
    layouts = parse_layouts(LAYOUTS if args.layouts is None else args.layouts)
    quants = parse_quants(args.quant)
    note = f"{name} ({facts.checkpoint}): {facts.summary()}"
    if any(choice.is_share for choice in layouts):
        note += f"\n`of:{facts.experts}` marks a share: some of the {facts.experts} experts, and "
        note += "a router that sees no others"
    return ModelPoints(
        name=name,
        points=points_of(facts, layouts=layouts, tokens=tokens, quants=quants),
        note=note,
        max_tokens=max(tokens),
    )


def small_share(model: str, quant: str | None) -> MoETestConfig:
    """Return a model's layer on one rank with about SHARE_EXPERTS of its experts, of 16 tokens.

    quant: a method, or None for the checkpoint's own. Raises UsageError.
    """
    _, facts = facts_of(model)
    ranks = max(facts.experts // SHARE_EXPERTS, 1)
    layouts = parse_layouts(f"ep:{ranks}/1" if ranks > 1 else "tp:1")
    quants = parse_quants(quant)
    (point,) = points_of(facts, layouts=layouts, tokens=(SHARE_TOKENS,), quants=quants)
    return point


def check_options(args: argparse.Namespace) -> None:
    """Raise UsageError for options of --model, or of --trace, that stand without it."""
    option_names = [name for name in _OPTIONS if getattr(args, name) is not None]
    if getattr(args, "trace", None) is not None and args.model is None:
        option_names = [name for name in option_names if name == "tokens"]
    if args.model is None and option_names:
        options = " and ".join(f"--{name}" for name in option_names)
        raise UsageError(f"give --model NAME with {options}")


def facts_of(text: str) -> tuple[str, ModelFacts]:
    """Return the name and facts of a model of configs/models.yaml, or of a config.json.

    A text with a slash, or that ends in .json, is a path. Raises UsageError.
    """
    from harness.matrix.hf_config import read_config
    from harness.matrix.models import known_models

    if "/" in text or text.endswith(".json"):
        path = Path(text)
        folder = path if path.is_dir() else path.parent
        return folder.resolve().name or "model", read_config(path)
    models = known_models()
    if text.lower() not in models:
        close = difflib.get_close_matches(text.lower(), models, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        raise UsageError(
            f"no model is called {text!r}{hint} (known: {', '.join(models)}); for another give "
            "the path of its config.json, with a slash or ending in .json"
        )
    return text.lower(), models[text.lower()]


def parse_tokens(text: str) -> tuple[int, ...]:
    """Return the tokens per DP rank of a comma-separated list, each once. Raises UsageError."""
    items = [item.strip() for item in text.split(",")]
    for item in items:
        if not (item.isascii() and item.isdecimal() and 1 <= int(item) <= MAX_TOKENS):
            rule = f"give whole numbers from 1 to {MAX_TOKENS}, such as {TOKENS}"
            raise UsageError(f"--tokens {text!r}: {item!r} is not a number of tokens; {rule}")
    return tuple(dict.fromkeys(int(item) for item in items))


def parse_quants(text: str | None) -> tuple[str, ...]:
    """Return the methods of a comma-separated list; none without one.

    Raises UnknownMemberError for a name that moe.quant lacks.
    """
    items = (QUANT.canonical(item.strip()) for item in text.split(",")) if text else ()
    names = tuple(dict.fromkeys(items))
    if text is not None and "" in (names or ("",)):
        raise UsageError(f"--quant {text!r}: give names of methods, such as none,fp8_block")
    for name in names:
        QUANT.row(name)
    return names
