"""A run's stages in the order that their inputs allow, on whatever Ray is there."""

from netgpt.cluster.pipeline.borrow import borrow
from netgpt.cluster.pipeline.driver import execute
from netgpt.cluster.pipeline.room import require_room
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.workers.locks import locked

__all__ = ["Run", "borrow", "execute", "locked", "require_room"]
