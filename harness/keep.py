"""Saving a case's tensors, when asked to: safetensors, never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.case import short_name

if TYPE_CHECKING:
    from harness.case import MoETestConfig
    from harness.context import RankContext
    from harness.scene import Call


def tensors(context: RankContext, case: MoETestConfig, call: Call) -> None:
    """Write the first call's tensors of this rank, if the run's options name a folder.

    docs/saved-tensors.md says what is in the file and how to load it.
    """
    folder = context.options.get("save_tensors")
    if not folder:
        return
    from safetensors.torch import save_file

    stem = short_name(case.id).replace(":", "_")
    path = Path(str(folder)) / f"{stem}-rank{context.rank}.safetensors"
    named = {
        "x": call.tokens.x,
        "router_logits": call.tokens.logits,
        "token_index": call.tokens.index,
        "topk_ids": call.output.routing.topk_ids,
        "topk_weights": call.output.routing.topk_weights,
        "out": call.output.out,
        "reference": call.answer.out,
    }
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in named.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(whole, str(path), metadata={"case": case.id, "rank": str(context.rank)})
    except OSError as error:  # a full disk is no fault of the layer
        print(f"tensors were not saved: {error}", flush=True)
