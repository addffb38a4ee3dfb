"""The data sets that there are, by name. Nothing is imported before it is asked for."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from netgpt.graphstore import addresses
from netgpt.graphstore.dataset import BuildConfig, Dataset
from netgpt.graphstore.errors import StoreError, UnknownNameError

DATASETS = {
    "xsvideo": "netgpt.graphstore.datasets.xsvideo:XSVideo",
    "tables": "netgpt.graphstore.datasets.tables:Tables",
    "interactions": "netgpt.graphstore.datasets.interactions:Interactions",
    "microlens": "netgpt.graphstore.datasets.microlens:MicroLens",
    "smpd": "netgpt.graphstore.datasets.smpd:Smpd",
    "edges": "netgpt.graphstore.datasets.edges:Edges",
}
"""By name the module and class of each data set."""


@cache
def load(name: str) -> Dataset:
    """The data set of a name, or of an address `package.module:Name`. UnknownNameError for others.

    An address imports a module, from where Python finds modules. To open, verify or sample a store needs no
    data set; whoever asks a store for its data set runs the code that the store names.
    """
    kind = addresses.load(DATASETS, name, "dataset", UnknownNameError)
    if not (isinstance(kind, type) and issubclass(kind, Dataset)):
        raise UnknownNameError(
            f"dataset: found {name!r}, a {type(kind).__name__}, expected a data set's class"
        )
    return kind()


def key_of(dataset: Dataset) -> str:
    """What `load` finds a data set by: its name in the table, or else its address."""
    if dataset.name in DATASETS:
        return dataset.name
    return f"{type(dataset).__module__}:{type(dataset).__qualname__}"


def of_source(source: Path) -> Dataset:
    """The first data set that takes a path for its own. StoreError where none does."""
    for name in DATASETS:
        if (dataset := load(name)).reads(source):
            return dataset
    found = "no such file" if not source.exists() else "a folder" if source.is_dir() else "another file"
    raise StoreError(
        f"{source}: found {found}, expected a source of one of the data sets {', '.join(DATASETS)}; name "
        "the data set where it is of another"
    )


def of_build(source: Path, config: BuildConfig | None, dataset: Dataset | str | None) -> Dataset:
    """The data set that is named, else the one that the settings are of, else the one that takes the path."""
    if dataset is not None:
        return load(dataset) if isinstance(dataset, str) else dataset
    return load(config.dataset) if config is not None and config.dataset else of_source(source)


def upgraded(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes of a store of format 1 or 2 as format 3 has them."""
    name = "xsvideo" if "train_until" in attributes else "edges"
    return load(name).upgrade(attributes) | {"dataset": name}
