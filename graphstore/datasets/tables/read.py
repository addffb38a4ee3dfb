"""Tables from files, in batches of bounded size; each column checked and turned into what a store keeps.

Legend: n rows of a batch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from netgpt.graphstore.datasets.delimited import LONG, Header, header_of, one_separator
from netgpt.graphstore.datasets.described import NUMBER, parquet_schema, reading, require_columns
from netgpt.graphstore.datasets.tables.describe import JSON_LINES, ColumnDescription, Kind, TableDescription
from netgpt.graphstore.errors import SourceError
from netgpt.graphstore.schema import NAME, usable

ROWS_AT_ONCE = 1 << 16
_BLOCK_BYTES = 1 << 24
_DATES = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ")


class TypeFoundError(Exception):
    """A column's type is not what it has to be."""

    def __init__(self, found: object, expected: str) -> None:
        super().__init__(expected)
        self.found, self.expected = str(found), expected


class CellsError(Exception):
    """Some values of a column are not what it has: `bad` [n] says which, `found` [n] what they are."""

    def __init__(self, bad: np.ndarray, found: Sequence[str], expected: str) -> None:
        super().__init__(expected)
        self.bad, self.found, self.expected = bad, found, expected


def batches(table: TableDescription, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of one file of a table, in the order of its rows. SourceError for a file that is none."""
    for batch in _read(table, file, [table.renamed.get(name, name) for name in columns]):
        yield batch.rename_columns(list(columns)) if table.renamed and columns else batch


def column_names(table: TableDescription, file: Path) -> list[str]:
    """Columns of one file of a table, by the names that it has."""
    if file.suffix == ".parquet":
        return list(parquet_schema(file).names)
    if file.suffix in JSON_LINES:
        import pyarrow.json

        with reading(file, "JSON lines"), pyarrow.json.open_json(file) as reader:
            return list(reader.schema.names)
    with reading(file, f"text with {table.separator!r} between columns"):
        return list(table.header) or _header(table, file, _csv_source(table, file)).names


def _read(table: TableDescription, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Columns by the names that the file has."""
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        # A buffer for what is to be read would keep what was read: all of the file in the end
        with reading(file, "Parquet"), pq.ParquetFile(file, pre_buffer=False) as parquet:
            require_columns(file, columns, parquet.schema_arrow.names)
            if not columns:
                for size in _sizes(parquet.metadata.num_rows):
                    yield pa.RecordBatch.from_arrays([pa.nulls(size)], [""])
                return
            yield from parquet.iter_batches(ROWS_AT_ONCE, columns=list(columns))
    elif file.suffix in JSON_LINES:
        yield from _json(file, columns)
    else:
        yield from _csv(table, file, columns)


def _json_schema(file: Path, columns: Sequence[str]) -> pa.Schema:
    """Columns of the first block, by what Arrow takes them for; where it is at odds with one that nobody
    asked for, of those alone that somebody did."""
    import pyarrow.json

    read = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES)
    try:
        with pyarrow.json.open_json(file, read_options=read) as reader:
            return reader.schema
    except pa.ArrowInvalid:
        with file.open("rb") as opened:
            lines = opened.readlines(_BLOCK_BYTES)
        try:
            rows = [json.loads(line) for line in lines if line.strip()]
            picked = [{name: row[name] for name in columns if name in row} for row in rows]
        except (ValueError, TypeError, RecursionError):
            picked = []
        if not any(picked):
            raise
        text = "".join(json.dumps(row) + "\n" for row in picked).encode()
        with pyarrow.json.open_json(io.BytesIO(text), read_options=read) as reader:
            return reader.schema


def _json(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """What columns are is told by the first block; others may hold anything."""
    import pyarrow.json

    read = pyarrow.json.ReadOptions(block_size=_BLOCK_BYTES)
    with reading(file, "JSON lines"):
        schema = _json_schema(file, columns)
        require_columns(file, columns, schema.names)
        kept = list(columns) or schema.names[:1]
        parse = pyarrow.json.ParseOptions(
            explicit_schema=pa.schema([schema.field(name) for name in kept]),
            unexpected_field_behavior="ignore",
        )
        with pyarrow.json.open_json(file, read_options=read, parse_options=parse) as reader:
            for batch in reader:
                yield from _pieces(batch.select(kept))


def _csv(table: TableDescription, file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Every value as a text: what a column means is the description's."""
    import pyarrow.csv

    with reading(file, f"text with {table.separator!r} between columns"):
        source = _csv_source(table, file)
        header = _header(table, file, source)
        require_columns(file, columns, header.names)
        if header.is_alone:
            return
        kept = list(columns) or header.names[:1]
        read = pyarrow.csv.ReadOptions(
            block_size=_BLOCK_BYTES, column_names=list(table.header) or None, encoding=table.encoding
        )
        parse = pyarrow.csv.ParseOptions(delimiter=_one(table.separator), newlines_in_values=True)
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(kept, pa.string()), include_columns=kept, strings_can_be_null=False
        )
        with pyarrow.csv.open_csv(source, read, parse, convert) as reader:
            for batch in reader:
                yield from _pieces(batch)


def _one(separator: str) -> str:
    """The separator as one character."""
    return separator if len(separator) == 1 else LONG


def _csv_source(table: TableDescription, file: Path) -> Any:
    """What is read: the file, or its bytes with one character as the separator."""
    return file if len(table.separator) == 1 else one_separator(file, table.separator)


def _header(table: TableDescription, file: Path, source: Any) -> Header:
    if table.header:
        return Header(list(table.header), is_alone=False)
    bytes_ = None if isinstance(source, Path) else source
    return header_of(file, bytes_, separator=_one(table.separator), encoding=table.encoding)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for first in range(0, batch.num_rows, ROWS_AT_ONCE):
        yield batch.slice(first, ROWS_AT_ONCE)


def _sizes(num: int) -> Iterator[int]:
    for first in range(0, num, ROWS_AT_ONCE):
        yield min(ROWS_AT_ONCE, num - first)


def keys_of(values: pa.Array) -> pa.Array:
    """Values that rows are found by, as texts; null where there is none: [n]. TypeFoundError for others."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_floating(values.type):  # as pandas has whole numbers of which some are missing
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
        whole = pc.fill_null(pc.equal(pc.floor(values), values), True)
        _require_cells(_mask(whole), values, "a whole number")
        values = values.cast(pa.int64())
    if pa.types.is_integer(values.type):
        return values.cast(pa.large_string())
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.large_string()), values)
    if pa.types.is_null(values.type):
        return values.cast(pa.large_string())
    raise TypeFoundError(values.type, "texts or whole numbers")


def texts_of(values: pa.Array) -> list[str]:
    """[n] texts, empty where there is none; numbers as they are written."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_nested(values.type) or pa.types.is_binary(values.type):
        raise TypeFoundError(values.type, "texts")
    return pc.fill_null(values.cast(pa.large_string()), "").to_pylist()


def numbers_of(values: pa.Array) -> np.ndarray:
    """[n] float64, NaN where there is none."""
    cells = values
    if _is_text(values):
        texts = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        empty = pc.fill_null(pc.equal(texts, ""), True)
        good = pc.or_(empty, pc.match_substring_regex(pc.fill_null(texts, ""), NUMBER))
        _require_cells(_mask(good), values, "a number")
        cells = pc.if_else(empty, pa.scalar(None, pa.large_string()), texts)
    elif not _is_number(values):
        raise TypeFoundError(values.type, "numbers")
    numbers = np.asarray(pc.fill_null(cells.cast(pa.float64(), safe=False), np.nan), np.float64)
    _require_cells(~np.isinf(numbers), values, "a finite number")
    return numbers


def times_of(values: pa.Array, form: str) -> np.ndarray:
    """[n] int64 seconds since 1970."""
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        seconds = values.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    elif pa.types.is_integer(kind):
        seconds = values.cast(pa.int64())
    elif _is_text(values):
        texts = pc.utf8_trim_whitespace(values.cast(pa.large_string()))
        if form:
            seconds = _parsed(texts, form)
        else:
            whole = pc.match_substring_regex(pc.fill_null(texts, ""), r"^-?\d{5,18}$")
            numbers = pc.if_else(whole, texts, pa.scalar(None, pa.large_string())).cast(pa.int64())
            seconds = pc.coalesce(numbers, *(_parsed(texts, one) for one in _DATES))
    else:
        raise TypeFoundError(kind, "times")
    expected = f"a time as {form}" if form else "seconds since 1970, or a time as 2024-12-31 23:59:59"
    _require_cells(_mask(pc.is_valid(seconds)), values, expected)
    return np.asarray(seconds, np.int64)


def _parsed(texts: pa.Array, form: str) -> pa.Array:
    """Seconds since 1970, null where a text is no such time: also for a day that no month has, which strptime
    takes for one of the next."""
    times = pc.strptime(texts, format=form, unit="s", error_is_null=True)
    same = pc.equal(_without_zeros(pc.strftime(times, format=form)), _without_zeros(texts))
    return pc.if_else(pc.fill_null(same, False), times.cast(pa.int64()), pa.scalar(None, pa.int64()))


def _without_zeros(texts: pa.Array) -> pa.Array:
    """Numbers without leading zeros, names of months and days in small letters."""
    texts = pc.utf8_lower(texts.cast(pa.large_string()))
    return pc.replace_substring_regex(texts, pattern=r"(^|[^0-9])0+([0-9])", replacement=r"\1\2")


def lists_of(values: pa.Array, separator: str) -> list[list[str]]:
    """[n] lists of texts, without empty ones and each once, in the order in which they are there."""
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        rows = values.cast(pa.list_(pa.string())).to_pylist()
    elif separator and _is_text(values):
        rows = [text.split(separator) if text else [] for text in texts_of(values)]
    else:
        raise TypeFoundError(values.type, "lists, or texts whose separator the description says")
    return [list(dict.fromkeys(s for one in row or [] if (s := (one or "").strip()))) for row in rows]


def vectors_of(values: pa.Array) -> np.ndarray:
    """[n, D] float32, D the length of the first list."""
    kind = values.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not nested:
        raise TypeFoundError(kind, "lists of numbers")
    lengths = np.asarray(pc.fill_null(pc.list_value_length(values), -1), np.int64)
    found = [f"{n} numbers" if n >= 0 else "nothing" for n in lengths.tolist()]
    width = max(1, int(lengths[0])) if len(lengths) else 1
    other = np.asarray(np.not_equal(lengths, width), bool)
    if other.any():
        raise CellsError(other, found, f"{width} numbers, as the first row")
    flat = np.asarray(
        pc.fill_null(pc.list_flatten(values).cast(pa.float32(), safe=False), np.nan), np.float32
    )
    x = flat.reshape(len(values), width)
    infinite = np.asarray(~np.isfinite(x).all(axis=1), bool)
    if infinite.any():
        raise CellsError(infinite, ["a value that is not finite"] * len(x), "finite numbers")
    return x


def converter(column: ColumnDescription) -> Callable[[pa.Array], Any]:
    """What makes a column's values of an Arrow array: texts, numbers, or for `categories` lists."""
    match column.kind:
        case "number":
            return numbers_of
        case "time":
            return lambda values: times_of(values, column.form)
        case "categories":
            return lambda values: lists_of(values, column.separator)
        case "vector":
            return vectors_of
    return texts_of


def _is_text(values: pa.Array) -> bool:
    return pa.types.is_string(values.type) or pa.types.is_large_string(values.type)


def _is_number(values: pa.Array) -> bool:
    return _is_number_type(values.type) or pa.types.is_null(values.type)


def _is_number_type(kind: pa.DataType) -> bool:
    t = pa.types
    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind) or t.is_boolean(kind))


def _mask(values: Any) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False), bool)


def _require_cells(good: np.ndarray, values: pa.Array, expected: str) -> None:
    """CellsError where some value is not good."""
    if not good.all():
        found = [repr(one.as_py()) if one.is_valid else "nothing" for one in values]
        raise CellsError(~good, found, expected)


def guessed_columns(table: TableDescription) -> tuple[tuple[ColumnDescription, ...], Mapping[str, str]]:
    """All columns of a table of Parquet but its key and links, by their types; and how the file calls those
    that are renamed, for what no name may have too. SourceError for types of which nothing is made."""
    names = {column: name for name, column in table.renamed.items()}
    columns, renamed = [], dict(table.renamed)
    for field in parquet_schema(table.paths[0]):
        name = names.get(field.name, field.name)
        if name in (table.key, table.relation) or name in table.links:
            continue
        if not NAME.fullmatch(name) and (name := usable(name)):
            renamed[name] = field.name
        if (kind := guessed_kind(field.type)) is None or not name:
            expected = (
                "a column of texts, numbers, times or lists of them: name the columns that are to be kept"
            )
            raise SourceError(str(table.paths[0]), None, field.name, f"type {field.type}", expected)
        columns.append(ColumnDescription(name, kind))
    return tuple(columns), renamed


def guessed_kind(kind: pa.DataType) -> Kind | None:
    """What a column of a type is; None for types of which nothing is made."""
    t = pa.types
    if t.is_list(kind) or t.is_large_list(kind) or t.is_fixed_size_list(kind):
        inner = guessed_kind(kind.value_type)
        return "vector" if inner == "number" else "categories" if inner == "text" else None
    if t.is_timestamp(kind) or t.is_date(kind):
        return "time"
    if t.is_dictionary(kind):
        return "category"
    if t.is_string(kind) or t.is_large_string(kind):
        return "text"
    return "number" if _is_number_type(kind) else None
