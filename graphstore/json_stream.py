"""JSON files of any length, read value by value by Python's own parser.

The text is held as far as the value that is read: memory grows with the longest value, never with the file or
with how deep values lie. Values are those of `json.loads`: large whole numbers and halves of surrogate
pairs come through, and a reader refuses what it has no use for by record and field. A parser with C's
numbers and strict UTF-8 refuses the whole file for them, or puts another value in their place.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

_BLOCK_BYTES = 1 << 18
_SPACE = re.compile(r"[ \t\n\r]*")
_CUT = 16
"""Where a text is cut within a value, Python's parser complains less than so far from the end: the longest
pieces that it reads as one are `-Infinity` and `\\uXXXX`. Strings are told by their message."""
MAX_VALUE_CHARS = 1 << 27
"""Longest value."""
DIGITS = f"a whole number of more than {sys.get_int_max_str_digits():,} digits"


class BrokenJsonError(ValueError):
    """Text that is not JSON; one line. Picklable: it holds its text alone."""


def _no_number(said: str) -> NoReturn:
    raise BrokenJsonError(f"{said} is no number of JSON's")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def json_text(value: Any, **options: Any) -> str:
    """A value as `json.dumps` writes it, with null for numbers that JSON has not: for a reader that is no
    Python. options: those of `json.dumps`."""
    return json.dumps(_with_nulls(value), allow_nan=False, **options)


def _with_nulls(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _with_nulls(one) for key, one in value.items()}
    return [_with_nulls(one) for one in value] if isinstance(value, list | tuple) else value


def _finite(said: str) -> float:
    number = float(said)
    return number if math.isfinite(number) else _no_number(said)


def decoded(text: str) -> Any:
    """`json.loads` of a text that somebody sent. BrokenJsonError for all that is no JSON, NaN among it,
    for numbers beyond float64, whole numbers of thousands of digits, and what is nested too deep."""
    try:
        return json.loads(text, parse_constant=_no_number, parse_float=_finite)
    except BrokenJsonError:
        raise
    except RecursionError:
        raise BrokenJsonError("nested too deep") from None
    except json.JSONDecodeError as error:
        raise BrokenJsonError(str(error)) from None
    except ValueError:
        raise BrokenJsonError(DIGITS) from None


def is_text(value: Any) -> bool:
    """Whether all strings of a JSON value are Unicode text: halves of surrogate pairs are none.

    BrokenJsonError for what is nested too deep to be written again.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    except RecursionError:
        raise BrokenJsonError("nested too deep") from None
    return True


def encoded(value: Any) -> str:
    """A JSON value as text on one line that a file in UTF-8 takes. BrokenJsonError for numbers beyond
    float64, and for what is nested too deep."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except UnicodeEncodeError:  # halves of surrogate pairs: as they came, in escapes
        return json.dumps(value, allow_nan=False)
    except RecursionError:
        raise BrokenJsonError("nested too deep") from None
    except ValueError:
        raise BrokenJsonError("a number beyond float64") from None
    return text


class JsonStream:
    """Reads a file's one JSON value: `members` of an object, `elements` of an array, `value` of what
    comes next.

        for name in stream.members():
            use(name, stream.value())  # or once more: for inner in stream.members(): …

    file: of bytes, UTF-8, where a mark of byte order may come first. All raise BrokenJsonError for what is
    not JSON, for what ends too early and for text behind the value, and OSError.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogatepass").decode
        self._text, self._at, self._is_whole = "", 0, False
        self._before = 0  # characters that were let go
        self._depth = 0
        self._at += self.peek() == "\ufeff"

    def peek(self) -> str:
        """The character that the next value begins with; empty at the end."""
        self._pass_space()
        while self._at == len(self._text) and not self._is_whole:
            self._more(_BLOCK_BYTES)
            self._pass_space()
        return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        size = _BLOCK_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                is_cut = error.pos + _CUT > len(self._text) or error.msg.startswith("Unterminated string")
                if self._is_whole or not is_cut:
                    what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
                    raise self._broken(what, error.pos) from None
            except RecursionError:
                raise self._broken("values nested too deep from") from None
            except BrokenJsonError as error:
                raise self._broken(f"{error}, in the value from") from None
            except ValueError:
                if self._is_whole or not self._text[-1].isdigit():  # else it may be cut before a point
                    raise self._broken(f"{DIGITS}, in the value from") from None
            else:
                # a number may go on where the text is cut: 1, 1.5 and 1.5e-3 begin alike
                if self._is_whole or self._text[end - 1] in '"]}' or end + _CUT <= len(self._text):
                    self._at = end
                    return value
            if len(self._text) - self._at > MAX_VALUE_CHARS:
                raise self._broken(f"a value of more than {MAX_VALUE_CHARS:,} characters from")
            self._more(size)
            size *= 2  # what is held is read again from its start

    def members(self) -> Iterator[str]:
        """The names of an object's members; the caller reads each one's value before the next."""
        return self._parts("{", "}")

    def elements(self) -> Iterator[Any]:
        """The values of an array."""
        for _ in self._parts("[", "]"):
            yield self.value()

    def _parts(self, opening: str, closing: str) -> Iterator[str]:
        self._take(opening)
        self._depth += 1
        if self.peek() == closing:
            self._at += 1
        else:
            while True:
                if opening == "{":
                    if self.peek() != '"':
                        raise self._broken("no name in double quotes at")
                    key = self.value()
                    self._take(":")
                    yield key
                else:
                    yield ""
                if self.peek() == closing:
                    self._at += 1
                    break
                self._take(",")
        self._depth -= 1
        if not self._depth and self.peek():
            raise self._broken("text behind the last value at")

    def _take(self, wanted: str) -> None:
        found = self.peek()
        if found != wanted:
            raise self._broken(f"{found!r} in place of {wanted!r} at" if found else "the end of the file at")
        self._at += 1

    def _pass_space(self) -> None:
        space = _SPACE.match(self._text, self._at)
        self._at = space.end() if space else self._at

    def _broken(self, what: str, at: int | None = None) -> BrokenJsonError:
        """at: in the text that is held; default where the next value begins."""
        return BrokenJsonError(f"{what} character {self._before + (self._at if at is None else at):,}")

    def _more(self, size: int) -> None:
        """Lets go of what was read and reads on."""
        data = self._file.read(size)
        self._is_whole = not data
        try:
            new = self._decode(data, self._is_whole)
        except UnicodeDecodeError as error:
            good = error.object[: error.start].decode("utf-8", "surrogatepass")
            what = f"the byte 0x{error.object[error.start]:02x}, which is no UTF-8, at"
            raise self._broken(what, len(self._text) + len(good)) from None
        self._before += self._at
        self._text, self._at = self._text[self._at :] + new, 0
