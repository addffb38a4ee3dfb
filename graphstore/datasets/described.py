"""What descriptions of data have in common: YAML (or JSON) files that are checked key by key, and the files
that they name."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.yaml_text import load_yaml

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
"""How a text says a number."""
_JSON = re.compile(rb'\s*\{\s*"(version|target|nodes|edges|tables|relations|interactions)"\s*:')
"""How a description in JSON, which is YAML too, begins."""


def is_described(path: Path) -> bool:
    """Whether a file describes a graph: YAML by its name, or a JSON object that begins as one does."""
    return path.suffix in (".yaml", ".yml") or begins_description(_head(path))


def begins_description(head: bytes) -> bool:
    """Whether a JSON file that begins so is a description."""
    return _JSON.match(head) is not None


def has_tables(path: Path) -> bool:
    """Whether a description is one of tables: the key is in its first 64 kB, at the top. Those of GraphStorm
    are of tables too."""
    if not is_described(path):
        return False
    if path.suffix == ".json" and b'"source_id_col"' in _head(path):
        return True
    in_yaml, in_json = rb'^["\']?tables["\']?\s*:', rb'"tables"\s*:'
    pattern = in_yaml if path.suffix in (".yaml", ".yml") else in_json
    return re.search(pattern, _head(path), re.MULTILINE) is not None


def has_pairs(path: Path) -> bool:
    """Whether a description is one of pairs of users and items: the key is in its first 64 kB, at the top."""
    pattern = rb'^(\{\s*)?["\']?interactions["\']?\s*:'
    return is_described(path) and re.search(pattern, _head(path), re.MULTILINE) is not None


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1 << 16)
    except OSError:
        return b""


def read_described(path: Path) -> Any:
    """The file's objects, lists and values. StoreError for what cannot be read, and for a key twice."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error})") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise StoreError(f"{path}: cannot be read as YAML: {error.problem}{line}") from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: {first_lines(error)}") from error


def first_lines(error: Exception) -> str:
    """A message of many lines as one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "; ".join(lines[:2])


def check_keys(path: Path, place: str, value: Any, names: Sequence[str]) -> None:
    """StoreError for what is no object, and for unknown keys, with the nearest that there is."""
    if not isinstance(value, dict):
        raise StoreError(f"{path}: {place or 'the whole'}: found {value!r:.60}, expected an object")
    for key in map(str, value):
        if key not in names:
            near = get_close_matches(key, names, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
            where = f"{place}.{key}" if place else key
            raise StoreError(f"{path}: found the unknown key {where}; {meant}")


def require(path: Path, condition: bool, place: str, found: object, expected: str) -> None:
    """StoreError where a value of a description is not what it should be."""
    if not condition:
        raise StoreError(f"{path}: {place}: found {found!r:.300}, expected {expected}")


@contextmanager
def reading(file: Path | str, kind: str) -> Iterator[None]:
    """StoreError for what Arrow, the system or an encoding finds wrong with a file."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeError, LookupError, csv.Error) as error:
        raise StoreError(f"{file}: cannot be read as {kind} ({_line(error)})") from error


def parquet_schema(file: Path) -> Any:
    """Arrow's schema of a Parquet file. StoreError for a file that is none."""
    import pyarrow.parquet as pq

    with reading(file, "Parquet"):
        return pq.read_schema(file)


def require_columns(file: Path | str, wanted: Sequence[str], names: Sequence[str]) -> None:
    """StoreError for a column that a file has not, or twice."""
    for name in wanted:
        if list(names).count(name) != 1:
            raise StoreError(f"{file}: column: found {', '.join(names)}, expected {name!r} once among them")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


@dataclass(frozen=True)
class NpyRows:
    """The rows of an .npy file, by reads: mapped pages would count as resident memory."""

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_c_order: bool
    offset: int

    def require(self, ndim: int) -> NpyRows:
        """Itself. StoreError for other numbers of dimensions, and for rows that are not in one piece."""
        if len(self.shape) != ndim or not self.is_c_order:
            raise StoreError(
                f"{self.file}: found shape {list(self.shape)}, expected {ndim} dimension(s) in C order"
            )
        return self

    def read(self, first: int, last: int) -> np.ndarray:
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        count, offset = (last - first) * width, self.offset + first * width * self.dtype.itemsize
        values = np.fromfile(self.file, self.dtype, count, offset=offset)
        if len(values) != count:
            raise StoreError(
                f"{self.file}: found fewer numbers than its header says, expected shape {list(self.shape)}"
            )
        return values.reshape(last - first, *self.shape[1:])


def map_npy(file: str) -> Any:
    """The array of an .npy file, mapped where it has numbers. StoreError where it is none."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except EOFError:
        raise StoreError(f"{file}: found an empty file, expected npy") from None
    except (OSError, ValueError, BadZipFile) as error:
        raise StoreError(f"{file}: cannot be read as npy ({_line(error)})") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise StoreError(f"{file}: found several arrays (npz), expected the one of an npy file")
    return array


def open_npy(file: str) -> NpyRows:
    """The header of an .npy file; StoreError where it is none."""
    array = map_npy(file)
    offset = array.offset if isinstance(array, np.memmap) else 0  # of no numbers there is no map
    return NpyRows(file, array.shape, array.dtype, array.flags.c_contiguous, offset)


def open_features(file: str) -> NpyRows:
    """[rows, width] of an .npy file, to be read in pieces."""
    x = open_npy(file)
    if len(x.shape) != 2 or x.shape[1] < 1 or x.dtype not in (np.float16, np.float32):
        raise StoreError(
            f"{file}: found {x.dtype} {list(x.shape)}, expected float16 or float32 [nodes, width]"
        )
    return x.require(2)
