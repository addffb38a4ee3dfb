"""XS-Video's released records: read as a stream, checked, and turned into typed values.

The file is one JSON object, state id → record. It is parsed record by record, so memory does not
grow with the file, and a record is checked before anyone sees it. What a record must hold is
written down once, in `parse_record`; the released keys are Chinese and are named here alone.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO, Literal

from netgpt.graphstore.dataset import OnError, ReadReport
from netgpt.graphstore.datasets.described import begins_description
from netgpt.graphstore.errors import RecordError, SourceError, StoreError
from netgpt.graphstore.json_stream import BrokenJsonError, JsonStream, encoded, is_text

URL, DESCRIPTION, TITLE, AUTHOR = "url", "描述", "标题", "发布用户ID"
SENTIMENT, DURATION, PLATFORM, POST_TIME = "sentiment", "视频时长（秒）", "平台", "发布时间"
TOPIC, LEVEL, SAMPLING_DATE = "话题", "影响力等级", "当前时间"
COUNTS = {
    "fans": "当前粉丝量",
    "likes": "当前点赞量",
    "views": "当前播放量",
    "shares": "当前分享量",
    "collects": "当前收藏量",
    "comments": "当前评论量",
}
COMMENTS, HISTORY = "评论", "历史状态"
COMMENT_ID, COMMENT_USER, COMMENT_TEXT = "short_id", "评论用户ID", "评论内容"
COMMENT_TIME, COMMENT_PLACE = "评论时间", "IP地址"

TEXT_KEYS = (
    *(URL, SENTIMENT, DESCRIPTION, TITLE, AUTHOR, DURATION, PLATFORM, POST_TIME, TOPIC),
    *(SAMPLING_DATE, *COUNTS.values(), COMMENTS, HISTORY),
)
"""Keys of a record that a model may read, in the release's order: everything but the level. An
allow list, so that a key which a later release adds cannot leak the label into a prompt."""

HALF, TEXT = "half of a surrogate pair in a text", "valid Unicode"

MAX_LEVEL = 9
"""Influence levels are 0 to 9."""

CHINA_OFFSET_S = 8 * 3600
CHINA = timezone(timedelta(seconds=CHINA_OFFSET_S))
"""Times of the release are Chinese wall-clock times, read as UTC+8 (no daylight saving)."""

TIME_FORM, A_TIME = "%Y-%m-%d %H:%M:%S", "a time such as 2024-11-25 21:18:52"
DATE_FORM, A_DATE = "%Y-%m-%d", "a date such as 2024-11-26"
_USUAL_TIME = {
    TIME_FORM: re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}"),
    DATE_FORM: re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"),
}
_CHINA_1970 = datetime(1970, 1, 1) + timedelta(seconds=CHINA_OFFSET_S)
BadNumbers = Literal["refuse", "zero"]
"""A count or duration that is absent, null or negative: refuse the record, or let it be 0 and count it."""


@dataclass(frozen=True, slots=True)
class Comment:
    text: str
    time: int  # seconds since 1970, UTC


@dataclass(frozen=True, slots=True)
class Record:
    """One state of a video. Times are seconds since 1970 UTC; the sampling date is its midnight in China."""

    id: str
    url: str
    description: str
    title: str
    author: str
    duration_s: float
    platform: str
    topic: str
    post_time: int
    sampling_time: int
    level: int  # 0 to 9, −1 where the record has none
    counts: dict[str, int]  # keys of COUNTS
    comments: tuple[Comment, ...]
    history: tuple[str, ...]
    text: str  # the record as JSON without its level, keys of TEXT_KEYS in order
    imputed: tuple[str, ...] = ()  # keys of numbers that were not there, and are 0


def _show(value: Any) -> str:
    """A short, one-line form of any JSON value for a message."""
    try:
        text = encoded(value)
    except ValueError:
        return "a value nested too deep" if isinstance(value, (dict, list)) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


class _Fields:
    """Typed access to one record; every miss becomes a RecordError that names file, record, field."""

    def __init__(self, file: str, record_id: str, raw: Any, bad_numbers: BadNumbers) -> None:
        self.file, self.record_id, self.bad_numbers = file, record_id, bad_numbers
        self.imputed: list[str] = []
        if not isinstance(raw, dict):
            raise self.error(None, _show(raw), "an object")
        self.raw = raw

    def error(self, name: str | None, found: str, expected: str) -> RecordError:
        # A key of a comment may be no text
        field = None if name is None else name.encode("utf-8", "backslashreplace").decode()
        return RecordError(self.file, self.record_id, field, found, expected)

    def get(self, name: str, kinds: tuple[type, ...], expected: str) -> Any:
        if name not in self.raw:
            raise self.error(name, "no such key", expected)
        value = self.raw[name]
        # bool is an int for Python and never one for this data
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise self.error(name, _show(value), expected)
        return value

    def text(self, name: str) -> str:
        return str(self.get(name, (str,), "a string"))

    def _is_imputed(self, name: str) -> bool:
        value = self.raw.get(name)
        bad = value is None or (isinstance(value, (int, float)) and value < 0)
        if bad and self.bad_numbers == "zero":
            self.imputed.append(name)
            return True
        return False

    def count(self, name: str) -> int:
        if self._is_imputed(name):
            return 0
        value = self.get(name, (int,), "a whole number from 0")
        if not 0 <= value < 2**63:
            raise self.error(name, _show(value), "a whole number from 0")
        return int(value)

    def duration(self) -> float:
        if self._is_imputed(DURATION):
            return 0.0
        value = self.get(DURATION, (int, float), "a number of seconds from 0")
        try:
            seconds = float(value)
        except OverflowError:
            seconds = math.inf
        if not (math.isfinite(seconds) and seconds >= 0):
            raise self.error(DURATION, _show(value), "a number of seconds from 0")
        return seconds

    def time(self, name: str, form: str, expected: str) -> int:
        return self.parse_time(name, str(self.get(name, (str,), expected)), form, expected)

    def parse_time(self, name: str, value: str, form: str, expected: str) -> int:
        """Seconds since 1970 of a Chinese wall-clock time."""
        try:
            # fromisoformat takes a tenth of strptime's time, but also other spellings: for the usual alone
            usual = _USUAL_TIME[form].fullmatch(value) is not None
            parsed = datetime.fromisoformat(value) if usual else datetime.strptime(value, form)
        except ValueError:
            raise self.error(name, _show(value), expected) from None
        if not 1970 < parsed.year < 2200:
            raise self.error(name, _show(value), expected)
        return (parsed - _CHINA_1970) // timedelta(seconds=1)

    def level(self, required: bool) -> int:
        if not required and LEVEL not in self.raw:
            return -1
        value = self.get(LEVEL, (int,), f"a whole number from 0 to {MAX_LEVEL}")
        if not 0 <= value <= MAX_LEVEL:
            raise self.error(LEVEL, _show(value), f"a whole number from 0 to {MAX_LEVEL}")
        return int(value)

    def history(self) -> tuple[str, ...]:
        values = self.get(HISTORY, (list,), "a list of state ids")
        for value in values:
            if not isinstance(value, (int, str)) or isinstance(value, bool):
                raise self.error(HISTORY, _show(value), "a state id")
        return tuple(str(value) for value in values)

    def comments(self) -> tuple[Comment, ...]:
        comments = []
        for key, raw in self.get(COMMENTS, (dict,), "an object of comments").items():
            name = f"{COMMENTS}.{key}"
            if not isinstance(raw, dict):
                raise self.error(name, _show(raw), "an object")
            for part in (COMMENT_TEXT, COMMENT_TIME):
                if part not in raw:
                    raise self.error(f"{name}.{part}", "no such key", "a string")
            for part in (COMMENT_ID, COMMENT_USER, COMMENT_TEXT, COMMENT_TIME, COMMENT_PLACE):
                if part in raw and not isinstance(raw[part], str):
                    raise self.error(f"{name}.{part}", _show(raw[part]), "a string")
            time = self.parse_time(f"{name}.{COMMENT_TIME}", raw[COMMENT_TIME], TIME_FORM, A_TIME)
            comments.append(Comment(raw[COMMENT_TEXT], time))
        return tuple(comments)

    def document(self) -> str:
        """What a model may read of the record, as JSON in the release's spelling."""
        visible = {key: self.raw[key] for key in TEXT_KEYS if key in self.raw}
        try:
            text = json.dumps(visible, ensure_ascii=False, allow_nan=False)
            text.encode()
        except (ValueError, RecursionError):
            raise self._unwritable(visible) from None
        return text

    def _unwritable(self, visible: dict[str, Any]) -> RecordError:
        """Which key of a record holds what no text can."""
        for key, value in visible.items():
            try:
                encoded(value)
                if not is_text(value):
                    return self.error(key, HALF, TEXT)
            except ValueError as error:
                return self.error(key, str(error), "values that JSON has")
        return self.error(None, "values nested too deep", "a record")


def parse_record(
    file: str,
    record_id: str,
    raw: Any,
    *,
    require_level: bool = True,
    bad_numbers: BadNumbers = "refuse",
) -> Record:
    """Check one record and give its typed form. Raises RecordError."""
    f = _Fields(file, record_id, raw, bad_numbers)
    if not is_text(record_id):
        raise f.error("id", HALF, TEXT)
    record = Record(
        id=record_id,
        url=f.text(URL),
        description=f.text(DESCRIPTION),
        title=f.text(TITLE),
        author=f.text(AUTHOR),
        duration_s=f.duration(),
        platform=f.text(PLATFORM),
        topic=f.text(TOPIC),
        post_time=f.time(POST_TIME, TIME_FORM, A_TIME),
        sampling_time=f.time(SAMPLING_DATE, DATE_FORM, A_DATE),
        level=f.level(require_level),
        counts={name: f.count(key) for name, key in COUNTS.items()},
        comments=f.comments(),
        history=f.history(),
        text=f.document(),
        imputed=tuple(f.imputed),
    )
    if SENTIMENT in raw:
        f.text(SENTIMENT)
    return record


_RECORDS = re.compile(rb'\{\s*"[^"]*"\s*:\s*\{')
"""How an object of objects begins."""


def _beginning(file: BinaryIO) -> bytes:
    return file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()


def is_records(path: Path) -> bool:
    """Whether a file may be one of released records: JSON by its name or beginning, and no description."""
    try:
        with path.open("rb") as file:
            head = _beginning(file)
    except OSError:
        return path.suffix == ".json"
    if begins_description(head) or path.suffix in (".yaml", ".yml"):
        return False
    return path.suffix == ".json" or _RECORDS.match(head) is not None


def raw_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The file's (state id, raw record) pairs as they come; SourceError where it is no such file."""
    file_name, last = str(path), None
    try:
        with path.open("rb") as file:
            head = _beginning(file)
            if not head:
                raise SourceError(file_name, None, None, "an empty file", "one JSON object of records")
            if begins_description(head):
                found = "a description of a graph (an object with tables, or with nodes and edges)"
                raise SourceError(file_name, None, None, found, "one JSON object of records, by their ids")
            if not head.startswith(b"{"):
                found = repr(head[:20].decode(errors="replace"))
                raise SourceError(
                    file_name, None, None, f"{found} at the start", "one JSON object of records"
                )
            file.seek(0)
            stream = JsonStream(file)
            for name in stream.members():
                raw = stream.value()
                last = name
                yield last, raw
    except BrokenJsonError as error:  # includes a file that is cut off
        place = "before the end of the first record" if last is None else "behind this record"
        raise SourceError(file_name, last, None, f"broken JSON {place} ({error})", "valid JSON") from None
    except OSError as error:
        raise SourceError(
            file_name, None, None, f"no readable file ({error.strerror})", "a JSON file"
        ) from error


def written_records(
    records: Iterable[tuple[str, Any]],
    path: Path,
    refuse: Callable[[str, ValueError], None] | None = None,
) -> Iterator[tuple[str, Any]]:
    """Pass (state id, raw record) pairs on while they are written to `path` in the released layout.

    refuse: told of a record that cannot be written again, with the ValueError of `encoded`; it is left out.
    Without it the error is raised.
    """
    with path.open("w", encoding="utf-8") as file:
        separator = "{"
        for state, record in records:
            try:
                text = encoded(record)
            except ValueError as error:
                if refuse is None:
                    raise
                refuse(state, error)
                continue
            file.write(f"{separator}\n{json.dumps(state)}: {text}")
            separator = ","
            yield state, record
        file.write("{}\n" if separator == "{" else "\n}\n")


def _checked(
    path: Path, require_level: bool, known_ids: Collection[str], bad_numbers: BadNumbers
) -> Iterator[tuple[str, Record | RecordError]]:
    """Every record of the file, or what is wrong with it; repeated ids are wrong from the second on."""
    seen: set[str] = set()
    for record_id, raw in raw_records(path):
        if record_id in known_ids:
            found = "an id that the store already has"
            yield record_id, RecordError(str(path), record_id, "id", found, "ids of new states")
            continue
        if record_id in seen:
            yield record_id, RecordError(str(path), record_id, "id", "a duplicate id", "each state once")
            continue
        seen.add(record_id)
        try:
            yield (
                record_id,
                parse_record(str(path), record_id, raw, require_level=require_level, bad_numbers=bad_numbers),
            )
        except RecordError as error:
            yield record_id, error


def _history_errors(
    path: Path, history: dict[str, tuple[str, ...]], ids: set[str], known_ids: Collection[str]
) -> Iterator[tuple[str, RecordError]]:
    for record_id, others in history.items():
        for other in others:
            if other not in ids and other not in known_ids:
                yield (
                    record_id,
                    RecordError(
                        str(path), record_id, HISTORY, f"unknown state id {other}", "ids of this file"
                    ),
                )
                break


def read_records(
    path: Path | str,
    *,
    on_error: OnError = "fail",
    require_level: bool = True,
    known_ids: Collection[str] = frozenset(),
    bad_numbers: BadNumbers = "refuse",
    check_history: bool = True,
    report: ReadReport | None = None,
) -> Iterator[Record]:
    """Stream a file's records in order. Memory holds ids, never records.

    `known_ids` are those of a store that the records join; they must not come again. A history id must
    be of a state in the file or in `known_ids`; later ones count too, so that is settled when the whole
    file has passed: with `on_error="fail"` the generator raises at its end (a consumer publishes nothing
    before that), with `"skip"` the file is read twice. A skipped record's own id stays a valid history
    id: it was there, and is counted in `report`. `check_history=False`: for a reader that has no use for
    history, and does not know the store that it may point into.

    Raises RecordError (the first bad record) and SourceError (the file; never skipped).
    """
    if on_error not in ("fail", "skip"):
        raise StoreError(f"on_error: found {on_error!r}, expected fail or skip")
    path = Path(path)
    report = report if report is not None else ReadReport()
    unknown: set[str] = set()
    if on_error == "skip" and check_history:
        seen, history = _scan(path, require_level, known_ids, bad_numbers)
        for record_id, error in _history_errors(path, history, seen, known_ids):
            unknown.add(record_id)
            report.skip(error)
    ids: set[str] = set()
    histories: dict[str, tuple[str, ...]] = {}
    for record_id, item in _checked(path, require_level, known_ids, bad_numbers):
        ids.add(record_id)
        if isinstance(item, RecordError):
            if on_error == "fail":
                raise item
            report.skip(item)
        elif record_id not in unknown:
            if on_error == "fail" and check_history and item.history:
                histories[record_id] = item.history
            report.keep(item.imputed)
            yield item
    for _, error in _history_errors(path, histories, ids, known_ids):
        raise error
    if report.num_read == 0:
        found = f"{report.num_skipped} records, all left out" if report.num_skipped else "no records"
        raise SourceError(str(path), None, None, found, "at least one valid record")


def _scan(
    path: Path, require_level: bool, known_ids: Collection[str], bad_numbers: BadNumbers
) -> tuple[set[str], dict[str, tuple[str, ...]]]:
    """Ids of the file, and the history of its valid records that have one."""
    seen: set[str] = set()
    history: dict[str, tuple[str, ...]] = {}
    for record_id, item in _checked(path, require_level, known_ids, bad_numbers):
        seen.add(record_id)
        if isinstance(item, Record) and item.history:
            history[record_id] = item.history
    return seen, history
