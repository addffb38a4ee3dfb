"""YAML as it is written: what YAML 1.1 takes for something else than it looks like is refused.

`on`, `yes`, `off` and `no` are truth values there, 010 is 8 and 1:30 is 90: names and numbers of a graph that
would be others without a word.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from omegaconf import OmegaConf

_OTHER = re.compile(r"(?i:y|n|yes|no|on|off)|[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")


class OtherValueError(ValueError):
    """A plain word or number that YAML takes for another value; one line."""


def load_yaml(text: str) -> Any:
    """A document as OmegaConf's object. OtherValueError as of `require_as_written`, and for keys that are no
    texts; else as OmegaConf and PyYAML raise."""
    require_as_written(text)
    loaded = OmegaConf.create(text)
    _check_keys(OmegaConf.to_container(loaded))
    return loaded


def require_as_written(text: str) -> None:
    """OtherValueError for a plain word or number that YAML reads as another value than is written."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if not isinstance(event, yaml.ScalarEvent) or event.style is not None or not event.implicit[0]:
            continue
        if _OTHER.fullmatch(event.value) and (value := yaml.safe_load(event.value)) != event.value:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise OtherValueError(
                f"found {event.value} in line {line}, which YAML reads as {value!r}; write it in quotes, or "
                "another way"
            )


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise OtherValueError(f"found the key {key!r}, expected a text; write it in quotes")
            _check_keys(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_keys(inner)
