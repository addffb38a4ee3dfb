"""The sampling kernel: all hops and relations of a batch in one call, without the GIL.

Legend: R relations, T node types, H hops, S trees (one a seed in disjoint mode, else one in all).
A tail is a node whose rows are sampled, a head one that a row holds.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit

from netgpt.graphstore import mixing
from netgpt.sampler.kernels.memory import int32_array, int64_array
from netgpt.sampler.kernels.rows import BLOCK, Rows, Scratch, find_rows, sample_rows, take_heads

# Columns of a relation's line: addresses of its arrays (0: none), and what else the kernel must know
INDICES, NUM_INDICES, IS_WIDE, BEGIN, END, RANK, FIRST_EDGE, SRC, DST = range(9)
IS_SORTED, EDGE_TIMES, ONE_EACH, NUM_COLUMNS = range(9, 13)
# Columns of a node type's line: its number of nodes, its first place in the table of stamps, its times
NUM_NODES, FIRST_STAMP, TIMES = range(3)
# What was wrong, and with which node of which relation
SOUND, BAD_ROW, BAD_HEAD, REPEATED_SEED, TOO_MANY, NO_SPACE = range(6)
# What there must be space for
NODES, ROWS, OUT_NODES, DEGREES, HEADS, NUM_SPACES = range(6)

_MAX_POSITION = (1 << 31) - 1


class Space(NamedTuple):
    """Memory of a batch: the first three are kept from batch to batch, the others become the batch."""

    nodes: np.ndarray
    """int64: nodes by type, with room for more behind each."""
    trees: np.ndarray
    """int32, alike; of length 0 where the batch is not disjoint."""
    rows: np.ndarray
    """[3, n] int64: starts, lengths and owns of a hop's rows."""
    out_nodes: np.ndarray
    """int64: nodes by type."""
    out_trees: np.ndarray
    """int32, alike; of length 0 where the batch is not disjoint."""
    degrees: np.ndarray
    """int32: by relation."""
    heads: np.ndarray
    """int32: by relation."""
    edges: np.ndarray
    """int64: by relation; of length 0 where no edge numbers are asked for."""


@njit
def _spread(values, first, used, room):  # type: ignore[no-untyped-def]
    """Move the parts values[first[p] : first[p] + used[p]] apart, with room [P] behind each.

    In place, in the order of the parts. Returns where they start now: [P + 1].
    """
    to = 0
    for p in range(len(used)):
        for i in range(used[p]):
            values[to + i] = values[first[p] + i]
        to += used[p]
    new_first = np.zeros(len(used) + 1, np.int64)
    new_first[1:] = np.cumsum(used + room)
    for p in range(len(used) - 1, -1, -1):
        to -= used[p]
        for i in range(used[p] - 1, -1, -1):
            values[new_first[p] + i] = values[to + i]
    return new_first


@njit
def _times(node_type):  # type: ignore[no-untyped-def]
    """Times of a type's nodes: [N] int64, of length 0 where it has none that count."""
    return int64_array(node_type[TIMES], node_type[NUM_NODES] if node_type[TIMES] else 0)


@njit
def _times_of(line, node_type):  # type: ignore[no-untyped-def]
    """Times that count in a relation: of its edges [E], where they have some, else of its heads' type."""
    return int64_array(line[EDGE_TIMES], line[NUM_INDICES]) if line[EDGE_TIMES] else _times(node_type)


@njit
def _part(rows, first, tails):  # type: ignore[no-untyped-def]
    """The found rows of some tails: from row `first` of more on."""
    last = first + len(tails)
    return Rows(
        tails,
        rows.starts[first:last],
        rows.lengths[first:last],
        rows.owns[first:last],
        rows.degrees[first:last],
        rows.limits[first:last] if len(rows.limits) else rows.limits,
    )


@njit
def _find(line, num_dst, rows, times, fanout, with_replacement):  # type: ignore[no-untyped-def]
    """`find_rows` of a relation given by its line."""
    if line[ONE_EACH]:
        rows.degrees[:] = 1
        return np.int64(len(rows.tails)), np.int64(1), np.int64(-1)
    begin, end = int64_array(line[BEGIN], num_dst), int64_array(line[END], num_dst)
    rank = int32_array(line[RANK], num_dst if line[RANK] else 0)
    is_sorted, by_edge = line[IS_SORTED] != 0, line[EDGE_TIMES] != 0
    if line[IS_WIDE]:
        wide = int64_array(line[INDICES], line[NUM_INDICES])
        return find_rows(wide, begin, end, rank, rows, times, is_sorted, by_edge, fanout, with_replacement)
    narrow = int32_array(line[INDICES], line[NUM_INDICES])
    return find_rows(narrow, begin, end, rank, rows, times, is_sorted, by_edge, fanout, with_replacement)


@njit
def _sample(  # type: ignore[no-untyped-def]
    line, num_dst, rows, times, is_drawn, key, stamps, stamp, nodes, num_nodes, heads, edges, scratch, used
):
    """`sample_rows` of a relation given by its line."""
    if line[ONE_EACH]:
        if line[IS_WIDE]:
            wide = int64_array(line[INDICES], line[NUM_INDICES])
            return take_heads(wide, rows.tails, stamps, stamp, nodes, num_nodes, heads, edges, scratch)
        narrow = int32_array(line[INDICES], line[NUM_INDICES])
        return take_heads(narrow, rows.tails, stamps, stamp, nodes, num_nodes, heads, edges, scratch)
    first_edge = int64_array(line[FIRST_EDGE], num_dst + 1 if line[FIRST_EDGE] else 0)
    listed = times[:0] if line[IS_SORTED] else times
    if line[IS_WIDE]:
        wide = int64_array(line[INDICES], line[NUM_INDICES])
        return sample_rows(
            wide, first_edge, rows, listed, is_drawn, key, stamps, stamp, nodes, num_nodes, heads, edges,
            scratch, used,
        )  # fmt: skip
    narrow = int32_array(line[INDICES], line[NUM_INDICES])
    return sample_rows(
        narrow, first_edge, rows, listed, is_drawn, key, stamps, stamp, nodes, num_nodes, heads, edges,
        scratch, used,
    )  # fmt: skip


@njit
def _seed_bounds(num_seeds_T, num_hops, is_disjoint):  # type: ignore[no-untyped-def]
    """Where the nodes of each tree and hop start among those of their type: [T, H + 1, S + 1].

    Filled for the seeds, whose trees are in order of type.
    """
    num_types, num_seeds = len(num_seeds_T), num_seeds_T.sum()
    bounds = np.zeros((num_types, num_hops + 1, (num_seeds if is_disjoint else 1) + 1), np.int64)
    first = np.int64(0)
    for t in range(num_types):
        if is_disjoint:
            for s in range(num_seeds + 1):
                bounds[t, 0, s] = min(max(s - first, 0), num_seeds_T[t])
        else:
            bounds[t, 0, 1] = num_seeds_T[t]
        first += num_seeds_T[t]
    return bounds


@njit
def _new_set(num_drawn):  # type: ignore[no-untyped-def]
    """An empty set that has room for so many positions of a row."""
    num_slots = 64
    while num_slots < 4 * num_drawn:
        num_slots *= 2
    return np.zeros(num_slots, np.int64)


@njit
def _sample_batch(  # type: ignore[no-untyped-def]
    relations,
    node_types,
    fanout_HR,
    key_R,
    stamps,
    stamp,
    seeds,
    num_seeds_T,
    limit_S,
    is_disjoint,
    with_replacement,
    with_edges,
    space,
):
    """Sample a batch into `space`. All arrays are int64 but key_R (uint64).

    relations [R, NUM_COLUMNS], node_types [T, 3]: lines as said above. stamps: the table of all node
    types; stamp: the last one used. seeds: node numbers in order of type, num_seeds_T of each.
    limit_S: latest time of a tree's heads, or [0] where there is no limit.

    Returns (problem, needed, stamp, num_nodes_TH, num_edges_HR). problem [3]: its kind, a relation or
    type, a node number. needed [NUM_SPACES]: what there must be space for, as far as it is known:
    where it is too small, ask again with more. stamp: the last one used now. num_nodes_TH [T, H + 1]:
    nodes by the hop that found them. In `space` nodes (and trees) are by type, degrees by relation
    and tail, heads and edges by relation, tail and draw.
    """
    num_hops, num_relations = fanout_HR.shape
    num_types = len(node_types)
    problem, needed = np.zeros(3, np.int64), np.zeros(NUM_SPACES, np.int64)
    bounds = _seed_bounds(num_seeds_T, num_hops, is_disjoint)
    num_trees = bounds.shape[2] - 1
    tails_R, edges_R = np.zeros(num_relations, np.int64), np.zeros(num_relations, np.int64)
    degree_first, head_first = np.zeros(num_relations + 1, np.int64), np.zeros(num_relations + 1, np.int64)
    num_edges_HR = np.zeros((num_hops, num_relations), np.int64)
    num_rows = np.int64(0)
    num_nodes = num_seeds_T.copy()
    node_first = np.zeros(num_types + 1, np.int64)
    node_first[1:] = np.cumsum(num_nodes)
    needed[NODES] = needed[OUT_NODES] = len(seeds)
    if len(seeds) > min(len(space.nodes), len(space.out_nodes)):
        problem[0] = NO_SPACE
    else:
        space.nodes[: len(seeds)] = seeds
        if is_disjoint:
            space.trees[: len(seeds)] = np.arange(len(seeds))

    for hop in range(num_hops):
        if problem[0] != SOUND:
            break
        # Find the rows of all tails
        dst_R = relations[:, DST]
        new_tails = bounds[:, hop, num_trees][dst_R] - bounds[:, hop, 0][dst_R]
        row_first = np.zeros(num_relations + 1, np.int64)
        row_first[1:] = np.cumsum(new_tails)
        needed[ROWS] = max(needed[ROWS], row_first[-1])
        needed[DEGREES] = tails_R.sum() + row_first[-1]
        if needed[ROWS] > space.rows.shape[1] or needed[DEGREES] > len(space.degrees):
            problem[0] = NO_SPACE
            break
        degree_first = _spread(space.degrees, degree_first, tails_R, new_tails)
        longest, drawn, node_room = np.int64(0), np.int64(0), np.zeros(num_types, np.int64)
        rows_R = []
        for r in range(num_relations):
            src, dst, num_tails = relations[r, SRC], dst_R[r], new_tails[r]
            times = _times_of(relations[r], node_types[src])
            first = node_first[dst] + bounds[dst, hop, 0]
            here = slice(row_first[r], row_first[r + 1])
            rows = Rows(
                space.nodes[first : first + num_tails],
                space.rows[0, here],
                space.rows[1, here],
                space.rows[2, here],
                space.degrees[degree_first[r] + tails_R[r] :][:num_tails],
                limit_S[space.trees[first : first + num_tails]] if len(times) else limit_S[:0],
            )
            rows_R.append(rows)
            if fanout_HR[hop, r] == 0 or num_tails == 0:
                rows.degrees[:] = 0
                continue
            num_edges_HR[hop, r], most, bad = _find(
                relations[r], node_types[dst, NUM_NODES], rows, times, fanout_HR[hop, r], with_replacement
            )
            if bad >= 0:
                problem[0], problem[1], problem[2] = BAD_ROW, r, rows.tails[bad]
                break
            node_room[src] += num_edges_HR[hop, r]
            longest, drawn = max(longest, most), max(drawn, min(most, fanout_HR[hop, r]))

        # Make room for exactly so many edges, and for nodes as if all were new
        for t in range(num_types):
            if not is_disjoint:
                node_room[t] = max(0, min(node_room[t], node_types[t, NUM_NODES] - num_nodes[t]))
            if num_nodes[t] + node_room[t] > _MAX_POSITION and problem[0] == SOUND:
                problem[0], problem[1] = TOO_MANY, t
        needed[NODES] = max(needed[NODES], (num_nodes + node_room).sum())
        needed[HEADS] = (edges_R + num_edges_HR[hop]).sum()
        if problem[0] == SOUND and (needed[NODES] > len(space.nodes) or needed[HEADS] > len(space.heads)):
            problem[0] = NO_SPACE
        if problem[0] != SOUND:
            break
        if is_disjoint:
            _spread(space.trees, node_first, num_nodes, node_room)
        node_first = _spread(space.nodes, node_first, num_nodes, node_room)
        if with_edges:
            _spread(space.edges, head_first, edges_R, num_edges_HR[hop])
        head_first = _spread(space.heads, head_first, edges_R, num_edges_HR[hop])
        scratch = Scratch(np.empty(BLOCK + longest, np.int64), np.empty(longest, np.int64), _new_set(drawn))

        # Sample, tree by tree
        row_at, head_at = np.zeros(num_relations, np.int64), head_first[:-1] + edges_R
        bounds[:, hop + 1, 0] = num_nodes
        for s in range(num_trees):
            stamp += 1
            for t in range(num_types):  # what the tree has so far
                table, ids = stamps[node_types[t, FIRST_STAMP] :], space.nodes[node_first[t] :]
                for h in range(hop + 1):
                    for position in range(bounds[t, h, s], bounds[t, h, s + 1]):
                        if table[ids[position]] >> 32 == stamp:
                            problem[0], problem[1], problem[2] = REPEATED_SEED, t, ids[position]
                        table[ids[position]] = (stamp << 32) | position
            if problem[0] != SOUND:
                break
            for r in range(num_relations):
                src, dst = relations[r, SRC], dst_R[r]
                first, last = bounds[dst, hop, s], bounds[dst, hop, s + 1]
                tails = space.nodes[node_first[dst] + first : node_first[dst] + last]
                rows = _part(rows_R[r], row_at[r], tails)
                row_at[r] += len(tails)
                total = rows.degrees.sum()
                if total == 0:
                    continue
                here = slice(head_at[r], head_at[r] + total)
                num_nodes[src] = _sample(
                    relations[r],
                    node_types[dst, NUM_NODES],
                    rows,
                    _times_of(relations[r], node_types[src]),
                    with_replacement and fanout_HR[hop, r] >= 0,
                    key_R[r],
                    stamps[node_types[src, FIRST_STAMP] :][: node_types[src, NUM_NODES]],
                    stamp,
                    space.nodes[node_first[src] : node_first[src + 1]],
                    num_nodes[src],
                    space.heads[here],
                    space.edges[here] if with_edges else space.edges[:0],
                    scratch,
                    num_rows,
                )
                if num_nodes[src] < 0:
                    problem[0], problem[1] = BAD_HEAD, r
                    break
                num_rows += len(tails)
                head_at[r] += total
            if problem[0] != SOUND:
                break
            for t in range(num_types):
                if is_disjoint:
                    space.trees[node_first[t] + bounds[t, hop + 1, s] : node_first[t] + num_nodes[t]] = s
                bounds[t, hop + 1, s + 1] = num_nodes[t]
        if problem[0] == SOUND:
            tails_R += new_tails
            edges_R += num_edges_HR[hop]

    num_nodes_TH = bounds[:, :, num_trees] - bounds[:, :, 0]
    if problem[0] == SOUND:
        needed[OUT_NODES] = num_nodes.sum()
        if needed[OUT_NODES] > len(space.out_nodes):
            problem[0] = NO_SPACE
        else:
            to = 0
            for t in range(num_types):
                here = slice(node_first[t], node_first[t] + num_nodes[t])
                space.out_nodes[to : to + num_nodes[t]] = space.nodes[here]
                if is_disjoint:
                    space.out_trees[to : to + num_nodes[t]] = space.trees[here]
                to += num_nodes[t]
    return problem, needed, stamp, num_nodes_TH, num_edges_HR


def _cached(digest):  # type: ignore[no-untyped-def]
    """`_sample_batch`, compiled once on a machine: the cache knows this file and the digest."""

    @njit(cache=True, nogil=True)
    def sample_batch(*arguments):  # type: ignore[no-untyped-def]
        digest  # noqa: B018 - a part of the cache's key
        return _sample_batch(*arguments)

    return sample_batch


# Numba's cache would not see that a function from another file has changed
_NAMES = ("generator", "memory", "rows")
_SOURCES = b"".join(Path(__file__).with_name(f"{n}.py").read_bytes() for n in _NAMES) + mixing.SOURCE
sample_batch = _cached(hashlib.blake2b(_SOURCES, digest_size=16).hexdigest())
