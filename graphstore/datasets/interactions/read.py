"""Columns of files of pairs and of items, whole and in memory; each bad value has its file and record.

Legend: n rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from netgpt.graphstore.datasets.delimited import LONG, header_of, one_separator
from netgpt.graphstore.datasets.described import NUMBER, reading, require_columns
from netgpt.graphstore.datasets.interactions.describe import TextFile
from netgpt.graphstore.errors import RecordError, SourceError


def read_columns(file: Path, form: TextFile, columns: list[str]) -> dict[str, Any]:
    """Some columns of a file as Arrow arrays, [n] each; of a file of texts all are texts.

    SourceError and StoreError for a file that cannot be read, or lacks one.
    """
    import pyarrow as pa

    if file.suffix == ".npz":
        return _npz(file, columns)
    if file.suffix == ".parquet":
        import pyarrow.parquet as pq

        with reading(file, "Parquet"):
            require_columns(file, columns, pq.read_schema(file).names)
            table = pq.read_table(file, columns=columns)
    else:
        table = _texts(file, form, columns)
    made = {}
    for name in columns:
        values = table.column(name).combine_chunks()
        values = values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
        made[name] = values
    return made


def _npz(file: Path, columns: list[str]) -> dict[str, Any]:
    import pyarrow as pa

    try:
        arrays = np.load(file, allow_pickle=False)
        if isinstance(arrays, np.ndarray):
            raise ValueError("one array (npy)")
        with arrays:
            names = list(arrays.files)
            found = {name: np.asarray(arrays[name]) for name in columns if name in names}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise SourceError(str(file), None, None, f"{error}".split("\n")[0][:200], "npz arrays") from error
    require_columns(file, columns, names)
    num = found[columns[0]].shape[:1]
    for name, values in found.items():
        if values.shape != num or values.dtype.kind not in "iufbU":
            expected = f"numbers {list(num)} as {columns[0]} has" if num else "numbers [n]"
            raise SourceError(str(file), None, name, f"{values.dtype} {list(values.shape)}", expected)
    return {name: pa.array(values) for name, values in found.items()}


def _texts(file: Path, form: TextFile, columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv

    source: Any = file
    separator = form.separator
    if len(separator.encode()) > 1:
        source, separator = one_separator(file, separator), LONG
    with reading(file, f"text with {form.separator!r} between columns"):
        read = pyarrow.csv.ReadOptions(column_names=list(form.header) or None, encoding=form.encoding)
        quote = '"' if separator == "," else False
        parse = pyarrow.csv.ParseOptions(delimiter=separator, quote_char=quote)
        kinds = dict.fromkeys(columns, pa.string())
        convert = pyarrow.csv.ConvertOptions(
            column_types=kinds,
            include_columns=columns,
            strings_can_be_null=False,
            include_missing_columns=True,
        )
        names = list(form.header)
        if not names:
            data = None if isinstance(source, Path) else source
            header = header_of(
                file, data, separator=separator, encoding=form.encoding, quote=quote is not False
            )
            names = header.names
            if header.is_alone:
                require_columns(file, columns, names)
                return pa.table({name: pa.array([], pa.string()) for name in columns})
        require_columns(file, columns, names)
        return pyarrow.csv.read_csv(source, read, parse, convert)


def ids_of(file: Path, name: str, values: Any, what: str) -> Any:
    """A column of ids: whole numbers [n] int64, or texts [n]. RecordError for a row without one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    missing = pc.is_null(values)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        values = pc.utf8_trim_whitespace(values)
        missing = pc.or_(missing, pc.fill_null(pc.equal(values, ""), True))
    elif not pa.types.is_integer(values.type) or values.type == pa.uint64():
        raise SourceError(str(file), None, name, f"type {values.type}", "texts, or whole numbers below 2^63")
    if pc.any(missing).as_py():
        row = int(np.argmax(missing.to_numpy(zero_copy_only=False)))
        raise RecordError(str(file), str(row), name, "nothing", what)
    return values


def numbers_of(file: Path, name: str, values: Any, expected: str = "a number") -> np.ndarray:
    """A column of numbers: [n] float64. RecordError for what is none."""
    import pyarrow as pa

    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        import pyarrow.compute as pc

        texts = pc.fill_null(pc.utf8_trim_whitespace(values), "")
        good = pc.match_substring_regex(texts, NUMBER)
        if pc.any(pc.invert(good)).as_py():
            row = int(np.argmin(good.to_numpy(zero_copy_only=False)))
            raise RecordError(str(file), str(row), name, repr(values[row].as_py()), expected)
        values = texts.cast(pa.float64())
    elif not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        if not pa.types.is_boolean(values.type):
            raise SourceError(str(file), None, name, f"type {values.type}", "numbers")
        values = values.cast(pa.int8())
    numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
    if not np.isfinite(numbers).all():
        row = int(np.argmin(np.isfinite(numbers)))
        raise RecordError(str(file), str(row), name, f"{numbers[row]}", expected)
    return numbers


def seconds_of(file: Path, name: str, values: Any) -> np.ndarray:
    """A column of times: [n] int64 seconds. RecordError for what are no whole ones."""
    import pyarrow as pa

    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        numbers = np.asarray(values.to_numpy(zero_copy_only=False), np.float64)
        if np.isnan(numbers).any():
            row = int(np.argmax(np.isnan(numbers)))
            raise RecordError(str(file), str(row), name, "nothing", "a time")
        return np.floor(numbers / 1e6).astype(np.int64)
    numbers = numbers_of(file, name, values, "whole seconds since 1970")
    wrong = (numbers != np.floor(numbers)) | (np.abs(numbers) >= 2**53)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RecordError(str(file), str(row), name, f"{numbers[row]:g}", "whole seconds since 1970")
    return numbers.astype(np.int64)


def texts_of(values: Any) -> list[str]:
    """[n] texts, empty where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return list(pc.fill_null(values.cast(pa.large_string()), "").to_pylist())


def numbered(values: Any) -> tuple[np.ndarray, list[str]]:
    """Numbers [n] int64 of ids [n], from 0 in the order of the distinct ones, and those as texts: whole
    numbers by size, others by their letters; so they depend on no order of rows."""
    import pyarrow as pa

    if pa.types.is_integer(values.type):
        distinct, codes = np.unique(values.to_numpy(zero_copy_only=False), return_inverse=True)
        return codes.astype(np.int64), [str(one) for one in distinct.tolist()]
    encoded = values.dictionary_encode()
    names = encoded.dictionary.to_pylist()
    whole = all(name.isdecimal() and name.isascii() and str(int(name)) == name for name in names)
    order = sorted(range(len(names)), key=(lambda i: int(names[i])) if whole else (lambda i: names[i]))
    place = np.empty(len(names), np.int64)
    place[order] = np.arange(len(names))
    return place[encoded.indices.to_numpy(zero_copy_only=False)], [names[i] for i in order]
