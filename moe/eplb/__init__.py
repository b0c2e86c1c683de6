"""Balance the load of expert parallelism: place replicas of loaded experts, and move weights.

    balance     loads -> which logical expert each physical one holds
    difference  two placements -> which weights have to be moved
    replicas    which replica of an expert a token goes to
    load        how many tokens each expert had in the last calls
    exchange    weights of experts, from rank to rank
    manager     all of it together, for the layers of one rank

This module and the first two import no torch.
"""

from __future__ import annotations

NO_BALANCING = "none"
# Policy -> what it does; see `moe.eplb.balance`.
POLICIES = {
    "global": "replicate over all ranks, whatever the groups of experts",
    "hierarchical": "keep groups of experts together on a node, and replicate within nodes",
}
# How weights are moved: before a call, or while the call still runs on the placement before.
AT_ONCE, OVERLAPPED = MOVES = ("at_once", "overlapped")
