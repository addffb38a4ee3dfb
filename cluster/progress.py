"""What a person sees while a command works: lines and progress bars on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def say(text: str) -> None:
    """A line for the person, above the progress bars."""
    tqdm.write(text, file=sys.stderr)


def bar(title: str, unit: str) -> Callable[[int, int], None]:
    """A progress bar on standard error that shows itself after a second."""
    shown: tqdm | None = None  # made at the first step: an error before it is one line alone

    def update(done: int, total: int) -> None:
        nonlocal shown
        if shown is None:
            shown = tqdm(
                desc=title, unit=unit, total=total, unit_scale=unit == "B", dynamic_ncols=True, delay=1
            )
        shown.total = total
        shown.update(done - shown.n)
        if done == total:
            shown.close()

    return update


@contextmanager
def counting_bar(title: str, unit: str, *, scaled: bool = False) -> Iterator[Callable[[int], Any]]:
    """A progress bar without a known end; yields what is called with the number of each batch."""
    with tqdm(desc=title, unit=unit, unit_scale=scaled, dynamic_ncols=True, delay=1) as shown:
        yield shown.update
