"""Stand-ins for packages that no machine here can run: they record how they are called.

They show what an adapter passes, never that a kernel computes the right thing.
"""

from __future__ import annotations

import enum
import sys
from types import ModuleType

import torch

from moe.experts import EXPERTS
from moe.quant import QUANT
from moe.types import Dispatched
from tests.moe.kernels.kernel_cases import input_of, layer_spec_of, routing_of, weights_of


class Recorder:
    """Keeps the arguments of each call, and returns zeros of the shape of the first tensor."""

    def __init__(self):
        self.calls = []

    def __call__(self, *arguments, **options):
        self.calls.append((arguments, options))
        first = arguments[0] if arguments else options["hidden_states"]
        return torch.zeros(first.shape, dtype=torch.bfloat16) if torch.is_tensor(first) else None

    @property
    def options(self):
        return self.calls[-1][1]


def install(patch, **modules):
    """Put modules with these attributes into sys.modules; `a__b` is the submodule a.b."""
    for name, attributes in modules.items():
        path = name.replace("__", ".")
        module = ModuleType(path)
        vars(module).update(attributes)
        patch.setitem(sys.modules, path, module)
        parent, _, last = path.rpartition(".")
        if parent:
            patch.setattr(sys.modules[parent], last, module, raising=False)


def shifted(name, *members):
    """An enum whose numbers are those of no release, so that a number that is fixed shows."""
    return enum.IntEnum(name, {member: 70 + i for i, member in enumerate(members)})


def made(experts, quant_name="none", *, rank=0, unused=0.0, **fields):
    """(backend with weights, input, routing, weights) for a small layer on the default device."""
    torch.manual_seed(0)
    spec, quant = layer_spec_of(quant_name, **fields), QUANT.load(quant_name)()
    device = torch.get_default_device()
    full = weights_of(spec, quant, device)
    local = list(spec.experts_of(rank))
    names = ("w13", "w2", "w13_scale", "w2_scale")
    parts = {name: getattr(full, name) for name in names}
    weights = full.replace(**{n: None if t is None else t[local] for n, t in parts.items()})
    x, routing = input_of(spec, quant, weights, device), routing_of(spec, device, unused)
    backend = EXPERTS.load(experts)(spec, rank, EXPERTS.row(experts).numerics, quant)
    backend.prepare_weights(weights)
    return backend, x, routing, weights


def dispatched(x, routing):
    return Dispatched(x=x, routing=routing, counts=(len(x.codes),))
