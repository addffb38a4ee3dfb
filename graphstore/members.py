"""Members of a store's groups, in the order of their rows, found by key: for new rows that join them.

Legend: N nodes of the type, n of them in a group, M new ones.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.relations import PrefixRows
from netgpt.graphstore.schema import RelationType

if TYPE_CHECKING:
    from netgpt.graphstore.store import Store


@dataclass(frozen=True)
class Members:
    """The nodes of all groups of a relation: a group's are a slice, in (time, node number) order."""

    key: np.ndarray
    """[n] int64, rising: the group of each member."""
    nodes: np.ndarray
    """[n] int64."""
    time: np.ndarray
    """[N] int64: of all nodes, by number."""

    @staticmethod
    def of(key: np.ndarray, time: np.ndarray) -> Members:
        """Of all nodes' groups [N], −1 for none, and times [N]."""
        member = np.flatnonzero(key >= 0)
        nodes = member[np.lexsort((member, time[member], key[member]))]
        return Members(np.asarray(key[nodes], np.int64), nodes, time)

    def joined(self, key_M: np.ndarray, time_M: np.ndarray, *, strict: bool) -> PrefixRows:
        """Rows of new nodes, which are numbered from N on, in lists of the groups that they join: those that
        `prefix_rows` makes of all nodes. A list ends with the last head of a new node."""
        num_old, num = len(self.time), len(key_M)
        begin, end, rank = np.zeros(num, np.int64), np.zeros(num, np.int64), np.zeros(num, np.int32)
        lists, offset = [np.empty(0, np.int64)], 0
        for key in np.unique(key_M[key_M >= 0]).tolist():
            first, last = np.searchsorted(self.key, [key, key + 1])
            old, new = self.nodes[first:last], np.flatnonzero(key_M == key)
            new = new[np.argsort(time_M[new], kind="stable")]
            times = time_M[new].tolist()
            earlier = [bisect_left(old, t, key=self._time_of) for t in times]
            not_later = [bisect_right(old, t, key=self._time_of) for t in times]
            # Of one moment new nodes, whose numbers are greater, come behind the old
            merged = np.insert(old[: not_later[-1]], not_later, num_old + new)
            rank[new] = np.arange(len(new)) + not_later
            begin[new] = offset
            heads, side = (earlier, bisect_left) if strict else (not_later, bisect_right)
            end[new] = [offset + num + side(times, t) for num, t in zip(heads, times, strict=True)]
            lists.append(merged)
            offset += len(merged)
        return PrefixRows(np.concatenate(lists), begin, end, rank)

    def _time_of(self, node: int) -> int:
        return int(self.time[node])


def members_of(store: Store, relation: RelationType) -> Members:
    """The members of the groups of a relation of the rule `group`."""
    node, name = store.schema.node_type(relation.edge_type[2]), str(relation.group_by)
    if node.column_named(name) is None:
        key = _linked(store, node.name, name)
    else:
        key = store.category(node.name, name)[0]
    return Members.of(key, np.asarray(store.column(node.name, node.time)))


def _linked(store: Store, node_type: str, column: str) -> np.ndarray:
    """What each node of a type links to by a column, −1 for nothing: [N] int64."""
    for relation in store.schema.relations:
        src, name, dst = relation.edge_type
        if relation.link == column and node_type in (src, dst):
            indptr, heads = store.relation(relation.edge_type).to_csr(np.int64)
            tails = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
            nodes, linked = (tails, heads) if name == f"rev_{column}" else (heads, tails)
            key = np.full(store.num_nodes[node_type], -1, np.int64)
            key[nodes] = linked
            return key
    raise StoreError(f"{store.path}: found no relation of the link {column}, expected one")
