"""Stand-ins for packages that move tokens and that no machine here can run.

They do with gloo, between real processes, what the packages document: who gets which rows, in which
order, and what is added up. They show what an adapter makes of that, never that a kernel is right.
What a package leaves undefined is NaN or garbage here, and its rows come in another order than that
of the ranks.
"""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import torch
import torch.distributed as dist

GARBAGE = 123


def gathered(value):
    """The value of every rank, in rank order."""
    raw = io.BytesIO()  # gather_object takes no fp8 tensors
    torch.save(value, raw)
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, raw.getvalue())
    return [torch.load(io.BytesIO(v), weights_only=True) for v in values]


def here():
    return dist.get_rank(), dist.get_world_size()


def senders_of(numbers, per_rank, rank):
    """Tokens of a rank's numbers [T, k] that have an expert on this rank."""
    is_here = (numbers >= 0) & (numbers // per_rank == rank)
    return is_here.any(dim=1).nonzero()[:, 0].tolist()


def as_raw(x):
    """Tensors of one byte an element as uint8: `stack` takes no fp8."""
    return x.view(torch.uint8) if x.element_size() == 1 else x


class DeepEpBuffer:
    """DeepEP's Buffer, in both modes."""

    def __init__(
        self, group, num_nvl_bytes=0, num_rdma_bytes=0, low_latency_mode=False, num_qps_per_rank=24
    ):
        assert (num_rdma_bytes if low_latency_mode else num_nvl_bytes) > 0
        self.per_rank = num_qps_per_rank
        self.low_latency = low_latency_mode

    @staticmethod
    def get_dispatch_config(num_ranks):
        return SimpleNamespace(get_nvl_buffer_size_hint=lambda width, ranks: width * ranks)

    get_combine_config = get_dispatch_config

    @staticmethod
    def get_low_latency_rdma_size_hint(room, hidden, num_ranks, num_experts):
        assert num_experts % num_ranks == 0
        return room * hidden * num_ranks

    def get_dispatch_layout(self, topk_idx, num_experts):
        assert topk_idx.dtype == torch.int64
        _, world = here()
        per = num_experts // world
        in_rank = torch.zeros((len(topk_idx), world), dtype=torch.bool)
        for r in range(world):
            in_rank[senders_of(topk_idx, per, r), r] = True
        ids = topk_idx.flatten()
        per_expert = torch.bincount(ids[ids >= 0], minlength=num_experts).int()
        return in_rank.sum(dim=0).int(), None, per_expert, in_rank, None

    def dispatch(
        self,
        x,
        num_tokens_per_rank,
        num_tokens_per_rdma_rank,
        is_token_in_rank,
        num_tokens_per_expert,
        topk_idx,
        topk_weights,
    ):
        rank, world = here()
        per = len(num_tokens_per_expert) // world
        assert not isinstance(x, tuple) or x[1].dtype == torch.float32
        everyone = gathered((x, topk_idx, topk_weights))
        rows = [(s, i) for s in range(world) for i in senders_of(everyone[s][1], per, rank)]
        sent = x if isinstance(x, tuple) else (x,)
        parts = []
        for n, own in enumerate(sent):
            values = [e[0][n] if isinstance(x, tuple) else e[0] for e in everyone]
            picked = [as_raw(values[s])[i] for s, i in rows]
            empty = as_raw(own)[:0]
            parts.append((torch.stack(picked) if picked else empty).view(own.dtype))
        places = torch.full((len(rows), topk_idx.shape[1]), -1)
        weights = torch.zeros(len(rows), topk_idx.shape[1])
        for row, (s, i) in enumerate(rows):
            ids = everyone[s][1][i]
            is_here = (ids >= 0) & (ids // per == rank)
            places[row] = torch.where(is_here, ids - rank * per, -1)
            weights[row] = torch.where(is_here, everyone[s][2][i], 0)
        lengths = [[len(senders_of(e[1], per, r)) for r in range(world)] for e in everyone]
        ends = torch.tensor(lengths).cumsum(dim=0).int()
        numbers = torch.tensor([i for _, i in rows], dtype=torch.int32)
        handle = (ends, None, None, numbers, is_token_in_rank, None)
        arrived = tuple(parts) if isinstance(x, tuple) else parts[0]
        return arrived, places, weights, [], handle, None

    def combine(self, x, handle):
        rank, _ = here()
        assert x.dtype == torch.bfloat16
        everyone = gathered((x, handle[0], handle[3]))
        out = torch.zeros(len(handle[4]), x.shape[1])
        for r, (rows, ends, numbers) in enumerate(everyone):
            start = int(ends[rank - 1, r]) if rank else 0
            for row in range(start, int(ends[rank, r])):
                out[int(numbers[row])] += rows[row].float()
        return out.bfloat16(), None, None

    def low_latency_dispatch(
        self, x, topk_idx, num_max_dispatch_tokens_per_rank, num_experts, use_fp8=True
    ):
        assert not use_fp8
        assert x.dtype == torch.bfloat16
        assert topk_idx.dtype == torch.int64
        room, (rank, world) = num_max_dispatch_tokens_per_rank, here()
        per = num_experts // world
        assert len(x) <= room
        assert per == self.per_rank
        everyone = gathered((x, topk_idx))
        blocks = torch.full((per, world * room, x.shape[1]), torch.nan).bfloat16()
        numbers = torch.full((per, world * room), GARBAGE, dtype=torch.int32)
        ranges = torch.zeros((per, world), dtype=torch.int64)
        counts = torch.zeros(per, dtype=torch.int32)
        for e in range(per):
            for s in reversed(range(world)):  # no order of the senders is promised
                tokens = (everyone[s][1] == rank * per + e).any(dim=1).nonzero()[:, 0]
                start = int(counts[e])
                ranges[e, s] = (start << 32) | len(tokens)
                blocks[e, start : start + len(tokens)] = everyone[s][0][tokens]
                numbers[e, start : start + len(tokens)] = tokens.int()
                counts[e] += len(tokens)
        return blocks, counts, (numbers, ranges, room, x.shape[1], num_experts), None, None

    def low_latency_combine(self, x, topk_idx, topk_weights, handle):
        rank, world = here()
        numbers, ranges, room, hidden, num_experts = handle
        assert x.shape == (num_experts // world, world * room, hidden)
        assert x.is_contiguous()
        everyone = gathered((x, numbers, ranges))
        out = torch.zeros(len(topk_idx), hidden)
        for i, ids in enumerate(topk_idx.tolist()):
            for slot, number in enumerate(ids):
                if number < 0:
                    continue
                rows, sources, spans = everyone[number // len(x)]
                e = number % len(x)
                first, length = int(spans[e, rank]) >> 32, int(spans[e, rank]) & 0xFFFFFFFF
                (at,) = (sources[e, first : first + length] == i).nonzero()[:, 0].tolist()
                out[i] += topk_weights[i, slot] * rows[e, first + at].float()
        return out.bfloat16(), None, None


class NixlBuffer(DeepEpBuffer):
    """NIXL's Buffer: made without memory, and connected later."""

    def __init__(self, rank=0, low_latency_mode=True, group=None):
        assert low_latency_mode
        assert rank == dist.get_rank(group)

    @staticmethod
    def get_low_latency_buffer_size_hint(room, hidden, num_ranks, num_experts):
        return room * hidden * num_ranks

    def update_memory_buffers(self, num_ranks, num_experts_per_rank, num_rdma_bytes):
        assert num_ranks == dist.get_world_size()
        assert num_rdma_bytes > 0
        self.per_rank = num_experts_per_rank

    def connect_ranks(self, remote_ranks):
        assert remote_ranks == list(range(dist.get_world_size()))


class TorchDistBackend:
    """FlashInfer's; what it splits off is a new group."""

    def __init__(self, group):
        self.group = group

    def Split(self, color, key):
        return TorchDistBackend(self.group)


class MoeAlltoAll:
    """FlashInfer's MoeAlltoAll."""

    def __init__(
        self,
        mapping,
        max_num_tokens,
        top_k,
        num_experts,
        workspace_size_per_rank,
        mnnvl_config,
    ):
        assert mapping.moe_ep_size == dist.get_world_size()
        backend = mnnvl_config.comm_backend
        assert backend.Split(0, dist.get_rank()) is backend, "it makes a group, with threads"
        assert num_experts % mapping.moe_ep_size == 0
        self.per_rank = num_experts // mapping.moe_ep_size
        self.room, self.size = max_num_tokens, workspace_size_per_rank
        self.sent = None

    def dispatch(
        self,
        token_selected_experts,
        input_payloads,
        runtime_max_tokens_per_rank,
        invalid_token_expert_id,
        expert_id_payload_index,
    ):
        room, (rank, world) = runtime_max_tokens_per_rank, here()
        assert self.sent is None
        assert room <= self.room
        assert token_selected_experts.dtype == torch.int32
        assert bool((token_selected_experts >= 0).all()), "-1 would go to rank 0"
        assert len(input_payloads) <= 4, "as its check kMaxPayloads"
        widths = [t.element_size() for t in input_payloads]
        assert widths == sorted(widths, reverse=True)
        row_bytes = [t.shape[1] * t.element_size() for t in input_payloads]
        assert sum(row_bytes) * room <= self.size
        for i, width in enumerate(row_bytes):
            copied = next(n for n in (16, 8, 4, 2, 1) if width % n == 0)  # bytes at a time
            assert world * room * sum(row_bytes[:i]) % copied == 0, "cudaErrorMisalignedAddress"
        everyone = gathered((token_selected_experts, input_payloads))
        self.sent = [senders_of(numbers, self.per_rank, rank) for numbers, _ in everyone]
        arrived = [
            torch.full((world, room, t.shape[1]), GARBAGE).to(t.dtype) for t in input_payloads
        ]
        arrived[expert_id_payload_index].fill_(invalid_token_expert_id)
        for s, tokens in enumerate(self.sent):
            for n, part in enumerate(arrived):
                part[s, : len(tokens)] = everyone[s][1][n][tokens]
        self.count = len(token_selected_experts)
        return arrived

    def combine(self, payload, runtime_max_tokens_per_rank):
        rank, world = here()
        assert payload.shape[:2] == (world, runtime_max_tokens_per_rank)
        out = torch.zeros((self.count, payload.shape[2]), dtype=payload.dtype)
        for rows, sent in gathered((payload, self.sent)):
            out.index_add_(0, torch.tensor(sent[rank]).long(), rows[rank, : len(sent[rank])])
        self.sent = None
        return out


@dataclass
class EpDispatchCombineConfig:
    data_type: torch.dtype
    rank: int
    world_size: int
    hidden_dim: int
    scale_dim: int
    scale_type_size: int
    max_token_type_size: int
    max_num_inp_token_per_rank: int
    num_experts_per_rank: int
    num_experts_per_token: int


class EpDispatchCombineOp:
    """MoRI's operator for ranks of one host."""

    def __init__(self, config):
        self.config = config

    def dispatch(self, input, weights, scales, indices):  # noqa: A002 (MoRI's name)
        config, (rank, world) = self.config, here()
        room, most = config.max_num_inp_token_per_rank, world * config.max_num_inp_token_per_rank
        assert (input.dtype, input.shape[1]) == (config.data_type, config.hidden_dim)
        assert indices.dtype == torch.int32
        assert bool((indices >= 0).all()), "-1 would go to rank 0"
        everyone = gathered((input, weights, scales, indices))
        rows = [
            (s, i)
            for s in reversed(range(world))
            for i in senders_of(everyone[s][3], config.num_experts_per_rank, rank)
        ]
        self.positions = torch.tensor([s * room + i for s, i in rows], dtype=torch.int32)
        self.count = len(input)

        def part(n, width, dtype):
            raw = torch.full((most, width), GARBAGE).to(torch.float32).to(dtype)
            for row, (s, i) in enumerate(rows):
                as_raw(raw)[row] = as_raw(everyone[s][n])[i]
            return raw

        return (
            part(0, config.hidden_dim, input.dtype),
            part(1, weights.shape[1], torch.float32),
            None if scales is None else part(2, config.scale_dim, scales.dtype),
            part(3, indices.shape[1], torch.int32),
            torch.tensor([len(rows)]),
        )

    def get_dispatch_src_token_pos(self):
        return self.positions

    def combine(self, input, weights, indices):  # noqa: A002 (MoRI's name)
        config, (rank, _) = self.config, here()
        out = torch.zeros(config.max_num_inp_token_per_rank, input.shape[1])
        for rows, positions in gathered((input, self.positions)):
            for row, position in zip(rows, positions.tolist(), strict=True):
                if position // config.max_num_inp_token_per_rank == rank:
                    out[position % config.max_num_inp_token_per_rank] += row.float()
        return out.to(input.dtype), None


def _flashinfer():
    def size(ep_size, max_num_tokens, total_dispatch_payload_size_per_token, **rest):
        per_token = total_dispatch_payload_size_per_token + rest["combine_payload_size_per_token"]
        return ep_size * max_num_tokens * per_token

    comm = {
        "Mapping": SimpleNamespace,
        "MoeAlltoAll": MoeAlltoAll,
        "moe_a2a_get_workspace_size_per_rank": size,
    }
    config = {"MnnvlConfig": SimpleNamespace, "TorchDistBackend": TorchDistBackend}
    return {"flashinfer": {}, "flashinfer.comm": comm, "flashinfer.comm.mnnvl": config}


def _mori():
    initialised = []

    def init(name):
        assert not initialised, "once in a process"
        initialised.append(name)

    names = (EpDispatchCombineConfig, EpDispatchCombineOp)
    ops = SimpleNamespace(**{c.__name__: c for c in names})
    return {"mori": {"ops": ops, "shmem": SimpleNamespace(shmem_torch_process_group_init=init)}}


def install():
    """Put the stand-ins into this process's sys.modules."""
    modules = {
        "deep_ep": {"Buffer": DeepEpBuffer},
        "nixl_ep": {"Buffer": NixlBuffer},
        **_flashinfer(),
        **_mori(),
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        sys.modules[name] = module
