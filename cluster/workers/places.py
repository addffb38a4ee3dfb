"""Where the ranks of a stage came up, and what each is told of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Environment = dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where an actor came up."""

    node: str
    address: str
    port: int
    """That was free."""
    gpus: tuple[str, ...]
    """Ids on its node of the GPUs that Ray gave it."""


def environments(places: Sequence[Place]) -> list[Environment]:
    """What each actor's environment says of its rank, as torchrun would: in the order of the places.

    Ranks count through one node after the other, on a node by GPU. Each rank sees the GPUs of all ranks of
    its node, so that its LOCAL_RANK is its device, and they may copy from each other.
    """
    nodes = list(dict.fromkeys(place.node for place in places))
    order = sorted(range(len(places)), key=lambda i: (nodes.index(places[i].node), _gpu_key(places[i]), i))
    master = places[order[0]]
    made: list[Environment] = [{} for _ in places]
    for rank, i in enumerate(order):
        own = places[i]
        local = [j for j in order if places[j].node == own.node]
        made[i] = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": str(local.index(i)),
            "LOCAL_WORLD_SIZE": str(len(local)),
            "NODE_RANK": str(nodes.index(own.node)),
            "MASTER_ADDR": master.address,
            "MASTER_PORT": str(master.port),
        }
        if own.gpus:
            made[i]["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for j in local for gpu in places[j].gpus)
    return made


def _gpu_key(place: Place) -> tuple[tuple[int, str], ...]:
    """Sorts ids of GPUs: numbers as such, names of parts of one as text."""
    return tuple((int(gpu), "") if gpu.isdecimal() else (-1, gpu) for gpu in place.gpus)
