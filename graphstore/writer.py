"""Builds a sealed store from any data set's source, in one streamed pass, and appends to one.

Node arrays are written as blocks pass; relations are made at the end, from the columns that were kept, or
from lists of edges. All of it happens in a folder beside the target and ends in one rename.

New rows join a sealed store as a new sealed version of it: node arrays are the old ones with rows behind
them. The lists of groups are made anew from the columns of all nodes: heads of one day lengthen old rows and
a late row shifts the ranks behind it, and sorting N nodes takes less time than reading their texts. Files
that come out with equal bytes are hard links to the old store's. In every array the result is the store that
one build from all rows makes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.arrays import StringWriter, write_array
from netgpt.graphstore.columns import NodeWriters, require_encoders, require_same_schema
from netgpt.graphstore.dataset import BuildConfig, Dataset, OnError, ReadReport, Source
from netgpt.graphstore.datasets import names
from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.features import Encoders
from netgpt.graphstore.files import atomic_dir, refuse_existing, value_digest
from netgpt.graphstore.nearest.relation import nearest_rows
from netgpt.graphstore.nearest.written import WrittenNodes
from netgpt.graphstore.relations import (
    Relation,
    csr_from_pairs,
    group_relation,
    link_pairs,
    write_relation,
)
from netgpt.graphstore.schema import MAX_NODES, RelationType, Schema, edge_name
from netgpt.graphstore.seal import require_whole, write_attributes, write_seal
from netgpt.graphstore.sort import RowStats, Values, write_rows
from netgpt.graphstore.store import Store
from netgpt.graphstore.vectors import choose_encoders, folder_encoders

DEFAULT_MEMORY_BYTES = 4_000_000_000
OnCount = Callable[[int], None]
"""Called with the number of rows, or of listed edges, that were written since the last call."""


def encoders_for(schema: Schema, config: BuildConfig, features: Path | None) -> Encoders:
    """The encoders that a schema's features need: a folder's, else those of the settings.

    features: folder of vectors that encoders made; what it lacks is encoded as `config` says.
    """
    kinds = {n.encoding for n in schema.node_types}
    dims = [n.dim for n in schema.node_types if n.encoding == "video"]
    text, video = choose_encoders(
        config.encoder if kinds & {"text", "text_time"} else None, dims[0] if dims else None, features
    )
    return Encoders(text, video, config.time_dim)


def write_store(
    root: Path,
    source: Source,
    dataset: Dataset,
    config: BuildConfig,
    *,
    features: Path | None = None,
    after: Store | None = None,
    progress: OnCount | None = None,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
) -> None:
    """Write a sealed store of a source's rows, behind those of `after`, into the folder `root`."""
    schema = source.schema
    if after is not None:
        schema = replace(schema, split=after.schema.split, relations=after.schema.relations)
    for problem in schema.problems():
        raise StoreError(f"{dataset.name}: found a schema that does not fit together: {problem}")
    encoders = encoders_for(schema, config, features)
    if after is not None:
        require_encoders(after, encoders.text, encoders.video)
    has_lists = bool(schema.given_relations)
    nodes = NodeWriters(root, schema, encoders, after)
    for block in source.blocks():
        nodes.append(source.file, block)
        if progress and block.table == schema.target and not has_lists:
            progress(len(block))
    given = source.num_nodes()
    for name, num in given.items():
        if num >= MAX_NODES:
            raise StoreError(
                f"{source.file}: node type {name!r}: found {num} nodes, expected fewer than 2^60"
            )
    num_nodes = nodes.close(given)
    report, target = source.report, schema.node_type(schema.target)
    source.scratch = root / "scratch"
    source.scratch.mkdir()
    relations = {}
    for relation in schema.relations:
        name, _, dst = edge_name(relation.edge_type), *relation.edge_type[1:]
        if relation.rule == "listed":
            stats = report.edges[name] = _write_listed(
                root, source, relation, num_nodes, memory_bytes, progress
            )
            dropped = {
                "num_duplicates_dropped": stats.num_duplicates,
                "num_self_loops_dropped": stats.num_self_loops,
            }
            relations[name] = {"layout": "csr", "num_edges": stats.num_edges, **dropped}
        else:
            rows = _rows(source, schema, relation, nodes, num_nodes, memory_bytes)
            layout = write_relation(root, rows, config.layout)
            relations[name] = {"layout": layout, "num_edges": rows.num_edges}
            if has_lists:
                report.edges[name] = RowStats(rows.num_edges, 0, 0)
        if relation.held:
            relations[name]["held"] = _write_held(root, source, relation)
        relations[name]["dst_range"] = [0, num_nodes[dst]]
    shutil.rmtree(source.scratch)
    source.scratch = None
    if any(c.kind == "id" for c in target.columns):
        # Ids that were left out stay taken, and stay valid where rows that come later refer to them
        strings = StringWriter(root, f"nodes/{target.name}/skipped_id")
        strings.append(sorted(report.skipped_ids | (after.skipped_ids if after else set())))
        strings.close()
    digest = source.digest()
    if after is not None:
        digest = value_digest({"parent": after.attributes["source_digest"], "file": digest})
    attributes: dict[str, Any] = {
        **source.attributes(),
        "schema": schema.to_dict(),
        "dataset": names.key_of(dataset),
        "num_nodes": num_nodes,
        "relations": relations,
        "encoders": _encoder_names(schema, encoders),
        "time_dim": config.time_dim,
        "build": config.said(),
        "features": folder_encoders(features),
        "source_digest": digest,
        "num_imputed": sum(report.imputed.values())
        + (after.attributes.get("num_imputed", 0) if after else 0),
        "num_skipped": report.num_skipped + (after.attributes["num_skipped"] if after else 0),
        "parent_digest": after.digest if after else None,
    }
    if encoders.video is not None:
        before = after.attributes.get("num_without_video", after.num_nodes[schema.target]) if after else 0
        attributes["num_without_video"] = nodes.num_without_video + before
    write_attributes(root, attributes)
    write_seal(root, (after.path, after.seal) if after else None)


def _encoder_names(schema: Schema, encoders: Encoders) -> dict[str, str]:
    """What made the features of each kind that there is."""
    kinds = {n.encoding for n in schema.node_types}
    made: dict[str, str] = {}
    if encoders.text is not None:
        made["text"] = encoders.text.name
    if kinds & {"time", "text_time"}:
        made["time"] = f"sinusoidal-1d-4096d-{encoders.time_dim}"
    if "scalar" in kinds:
        made["scalar"] = "log1p"
    if "numbers" in kinds:
        made["numbers"] = "value-log-known"
    if encoders.video is not None:
        made["video"] = encoders.video.name
    return made


def _rows(
    source: Source,
    schema: Schema,
    relation: RelationType,
    nodes: NodeWriters,
    num_nodes: dict[str, int],
    memory_bytes: int,
) -> Relation:
    """The rows of a relation that a group, a column or retrieval makes."""
    src, _, dst = relation.edge_type
    if relation.nearest is not None:
        assert source.scratch is not None
        written = WrittenNodes(nodes.root, schema, num_nodes)
        return nearest_rows(written, relation, scratch=source.scratch / "vectors")
    if relation.group_by is not None:
        target = schema.node_type(dst)
        if target.column_named(relation.group_by) is None:
            key, time = source.group(relation, num_nodes[dst], memory_bytes)
        else:
            key, time = nodes.kept(dst, relation.group_by), nodes.kept(dst, target.time)
        return group_relation(relation.edge_type, key, time, strict=relation.strict)
    child = schema.linked(relation.edge_type)
    values = None if child.origin == "each" else nodes.kept(child.table, child.column)
    pairs = link_pairs(child.origin, np.arange(num_nodes[child.of]), 0, values)
    heads, tails = pairs if child.name == src else pairs[::-1]
    indptr, indices = csr_from_pairs(heads, tails, num_nodes[dst])
    return Relation(relation.edge_type, "csr", indices, indptr[:-1], indptr[1:])


def _write_listed(
    root: Path,
    source: Source,
    relation: RelationType,
    num_nodes: dict[str, int],
    memory_bytes: int,
    progress: OnCount | None,
) -> RowStats:
    src, _, dst = relation.edge_type
    return write_rows(
        root,
        f"edges/{edge_name(relation.edge_type)}",
        partial(source.edges, relation.edge_type),
        num_heads=num_nodes[src],
        num_tails=num_nodes[dst],
        policy=source.policy(relation.edge_type),
        values=Values.of(relation),
        memory_bytes=memory_bytes,
        held_bytes=source.held_bytes,
        progress=progress,
    )


def _write_held(root: Path, source: Source, relation: RelationType) -> dict[str, int]:
    """Pairs that are no edges, in the order (head, tail), where no reader of edges looks; how many of each
    part."""
    num = {}
    for part in relation.held:
        heads, tails = source.held(relation.edge_type, part)
        order = np.lexsort((tails, heads))
        for name, ends in (("heads", heads), ("tails", tails)):
            write_array(root, f"{relation.held_path(part)}/{name}", ends[order].astype(np.int64))
        num[part] = len(order)
    return num


def build(
    source: Path | str | Source,
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    dataset: Dataset | str | None = None,
    features: Path | str | None = None,
    progress: OnCount | None = None,
    memory_bytes: int | None = None,
) -> ReadReport:
    """Build a store at `out` from a data set's file, or from a source that is open.

    The data set is `dataset`, else the one that `config` is of, else the one that takes the file. `features`
    is a folder that `netgpt features` made of the rows. Rows of lists of edges are in `csr` layout, each in
    the order of its files, made within `memory_bytes` and some pieces of a million edges; rows of groups are
    in the layout of `config`. Nothing is left at `out` when this raises: RecordError and SourceError for bad
    input, StoreError where `out` is taken.
    """
    out = Path(out)
    refuse_existing(out)
    if isinstance(source, Source):
        if dataset is None and not (config is not None and config.dataset):
            raise StoreError(f"{source.file}: found rows of no named data set, expected its name or settings")
        data_set = names.of_build(Path(source.file), config, dataset)
        settings, opened = data_set.configured(config), source
    else:
        data_set = names.of_build(Path(source), config, dataset)
        settings = data_set.configured(config)
        opened = data_set.open(Path(source), settings, report=ReadReport())
    with atomic_dir(out) as root:
        write_store(
            root,
            opened,
            data_set,
            settings,
            features=None if features is None else Path(features),
            progress=progress,
            memory_bytes=memory_bytes or DEFAULT_MEMORY_BYTES,
        )
    return opened.report


def next_version(path: Path) -> Path:
    """Where the version after `path` goes if nobody says: store, store-2, store-3, …"""
    numbered = re.fullmatch(r"(.*)-(\d+)", path.name)
    base, number = (numbered[1], int(numbered[2])) if numbered else (path.name, 1)
    return path.with_name(f"{base}-{number + 1}")


def append(
    store: Path | str,
    source: Path | str,
    out: Path | str | None = None,
    *,
    on_error: OnError = "fail",
    features: Path | None = None,
    progress: OnCount | None = None,
) -> tuple[Path, ReadReport]:
    """Write the store of `store`'s rows followed by those of `source`; returns where, and what was read.

    `out` is by default the next version beside `store` (store, store-2, …). The old store is read whole
    first and stays as it is. Raises RecordError and SourceError for bad rows, also for ids that the store
    has, FormatError for a store that is damaged or whose relations are lists, StoreError where `out` is taken
    and for `features` (a folder of vectors of the new rows) of other encoders than the store's.
    """
    old, source = Store(store), Path(source)
    out = Path(out) if out is not None else next_version(old.path)
    refuse_existing(out, old.path)
    dataset = old.dataset
    if old.schema.given_relations or not dataset.can_join:
        raise FormatError(
            f"{old.path}: found a store of {dataset.title}, expected one whose relations follow from its "
            "rows, so that new rows can join it"
        )
    config = build_config(old, on_error)
    # What is copied and linked is sealed anew: damage must not be sealed with it
    require_whole(old.path, old.seal)
    opened = dataset.open(source, config, report=ReadReport(), known_ids=old.taken_ids())
    require_same_schema(old, opened)
    with atomic_dir(out) as root:
        write_store(root, opened, dataset, config, features=features, after=old, progress=progress)
    return out, opened.report


def build_config(store: Store, on_error: OnError = "fail") -> Any:
    """The settings that a store was built with, as its data set's `Config`."""
    Config = store.dataset.Config
    try:
        return Config(**{**store.attributes["build"], "on_error": on_error})
    except TypeError:
        raise FormatError(f"{store.path}: found build settings of another version of netgpt") from None
