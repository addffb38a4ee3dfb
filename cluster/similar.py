"""A relation of what is nearest, found for a store that is there: by threads, or by actors on Ray."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from threadpoolctl import threadpool_limits

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError, StageFailedError
from netgpt.cluster.progress import counting_bar, say
from netgpt.cluster.workers.locks import locked
from netgpt.graphstore.files import refuse_existing
from netgpt.graphstore.nearest.approximate import Approximate
from netgpt.graphstore.nearest.parts import PartedSearch
from netgpt.graphstore.relation_types import Nearest, Part, RelationType, edge_name, nearest_relation
from netgpt.graphstore.writer import next_version


class _Finder:
    """An actor: the number of a part in; out, how many rows it wrote."""

    def __init__(
        self, store: str, relation: RelationType, folder: str, approximate: Approximate | None
    ) -> None:
        threadpool_limits(1, user_api="blas")
        self._search = PartedSearch(graphstore.open(store), relation, Path(folder), approximate)

    def make(self, part: int) -> int:
        return self._search.make(part)


def bank_of(text: str) -> Part | None:
    """The bank that a command says: COLUMN=VALUE of a category, or COLUMN<NUMBER. ClusterError for others."""
    if not text:
        return None
    column, equals, value = text.partition("=")
    if equals and column and "<" not in column:
        return Part(column=column, value=value)
    column, below, number = text.partition("<")
    if not (below and column and number.lstrip("-").isdecimal()):
        raise ClusterError(f"--bank: found {text!r}, expected COLUMN=VALUE or COLUMN<NUMBER")
    return Part(column=column, until=int(number))


def add_similar(
    store: Path,
    out: Path | None,
    *,
    by: list[str],
    name: str,
    of: str,
    k: int,
    time: str,
    apart: str,
    bank: str,
    actors: int,
    threads: int,
    probes: int = 0,
) -> Path:
    """The next version of a store, or the one at `out`, with a relation more. Killed and started again, it
    goes on where it stopped: parts that were found are beside it until it is whole.

    actors: on the connected or on a local Ray, one core each; 0: `threads` of this process. probes: clusters
    of an index that are looked at for a node; 0: exact.
    """
    opened = graphstore.open(store)
    out = out or next_version(opened.path)
    refuse_existing(out, opened.path)
    node_type = of or opened.schema.target
    nearest = Nearest(by=tuple(by), k=k, time=time, apart=apart, bank=bank_of(bank))
    relation = nearest_relation((node_type, name, node_type), nearest)
    folder = out.with_name(f"{out.name}.parts")
    with locked(folder):
        approximate = Approximate(probes) if probes else None
        search = PartedSearch(opened, relation, folder, approximate)
        num, missing = len(search.ranges), search.missing
        if len(missing) < num:
            say(f"{folder}: {num - len(missing)} of {num} parts are there")
        with counting_bar("nearest", " rows") as progress:
            for rows in (
                _by_actors(search, missing, actors) if actors else _by_threads(search, missing, threads)
            ):
                progress(rows)
        search.write(out)
    if approximate is not None:
        said = graphstore.open(out).attributes["relations"][edge_name(relation.edge_type)]["approximate"]
        say(f"recall {said['recall']:.4f}, of {said['of']} rows compared with the true ones")
    return out


def _by_threads(search: PartedSearch, missing: list[int], threads: int) -> Iterator[int]:
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield from pool.map(search.make, missing)


def _by_actors(search: PartedSearch, missing: list[int], actors: int) -> Iterator[int]:
    import ray

    from netgpt.cluster.workers.pool import map_on_pool
    from netgpt.cluster.workers.session import ray_session

    folder = str(search.folder.resolve())
    arguments = (str(search.store.path.resolve()), search.relation, folder, search.approximate)
    with ray_session(actors):
        pool = map_on_pool(missing, _Finder, arguments, size=actors, ordered=False)
        try:
            with closing(pool) as results:
                yield from results
        except ray.exceptions.RayError as error:
            raise StageFailedError(f"similar: {error}") from error
