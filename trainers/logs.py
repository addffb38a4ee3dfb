"""One log file a stage, RUN/logs/STAGE.log, that all its processes add lines to."""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOGS = "logs"
_LOGGERS = ("netgpt", "DeepSpeed", "py.warnings")
_FORMAT = "%(asctime)s %(levelname)s {place} %(name)s: %(message)s"


def log_path(run: Path, stage: str) -> Path:
    return run / LOGS / f"{stage}.log"


@contextmanager
def stage_log(run: Path, stage: str, rank: int) -> Iterator[logging.Logger]:
    """Log to the stage's file until the block ends; what ends it by an error is in the file, with its trace.

    Lines of all ranks go to the end of one file. A crash of the interpreter (a store's file that was cut
    off under its map, say) leaves the threads' stacks there too.
    """
    path = log_path(run, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    place = f"rank {rank} ({socket.gethostname()}, {os.getpid()})"
    handler.setFormatter(logging.Formatter(_FORMAT.format(place=place)))
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
    own = loggers[0]
    own.setLevel(logging.INFO)
    logging.captureWarnings(True)
    assert handler.stream is not None
    faulthandler.enable(handler.stream)
    try:
        yield own
    except BaseException:
        own.exception("%s: ended by an error", stage)
        raise
    finally:
        faulthandler.disable()
        logging.captureWarnings(False)
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()
