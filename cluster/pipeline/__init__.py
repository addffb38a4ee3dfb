"""A run's stages in the order that their inputs allow, on whatever Ray is there."""

from cluster.pipeline.driver import execute
from cluster.pipeline.room import require_room
from cluster.pipeline.run import Run
from cluster.workers.locks import locked

__all__ = ["Run", "execute", "locked", "require_room"]
