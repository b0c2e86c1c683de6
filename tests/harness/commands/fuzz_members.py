"""Backends with mistakes for the fuzzer to find: of three experts or more the last is lost, and one
that is wrong from its second case in a process on."""

from __future__ import annotations

from typing import ClassVar

import torch

from moe.experts.torch_loop import TorchLoopExperts
from moe.spec import ANY, MemberSpec, Needs
from moe.types import Routing


class LosesTheThird(TorchLoopExperts):
    row = MemberSpec(
        name="tests.harness.commands.fuzz_members:LosesTheThird",
        target="tests.harness.commands.fuzz_members:LosesTheThird",
        needs=Needs(dtypes=ANY, formats=ANY),
    )

    def apply(self, x, routing):
        ids = routing.topk_ids
        if ids.shape[1] >= 3:
            ids = torch.cat([ids[:, :-1], torch.full_like(ids[:, -1:], -1)], dim=1)
        return super().apply(x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))


class SpoiledByOthers(TorchLoopExperts):
    row = MemberSpec(
        name="tests.harness.commands.fuzz_members:SpoiledByOthers",
        target="tests.harness.commands.fuzz_members:SpoiledByOthers",
    )
    problems: ClassVar = set()

    def apply(self, x, routing):
        self.problems.add(self.layer_spec)
        out = super().apply(x, routing)
        return out if len(self.problems) == 1 else 2 * out
