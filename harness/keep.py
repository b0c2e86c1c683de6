"""Saving a case's tensors, when asked to: safetensors, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.case import MoETestConfig
    from harness.context import RankContext
    from harness.inputs import Tokens
    from moe.layer import Output
    from moe.reference.layer import Answer


def tensors(
    context: RankContext, case: MoETestConfig, mine: Tokens, output: Output, answer: Answer
) -> None:
    """Write the first call's tensors of this rank, if the run's options name a folder.

    docs/saved-tensors.md says what is in the file and how to load it.
    """
    folder = context.options.get("save_tensors")
    if not folder:
        return
    from safetensors.torch import save_file

    path = Path(str(folder)) / f"{case.id.replace(':', '_')}-rank{context.rank}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {
        "x": mine.x,
        "router_logits": mine.logits,
        "token_index": mine.index,
        "topk_ids": output.routing.topk_ids,
        "topk_weights": output.routing.topk_weights,
        "out": output.out,
        "reference": answer.out,
    }
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in named.items()}
    save_file(whole, str(path), metadata={"case": case.id, "rank": str(context.rank)})
