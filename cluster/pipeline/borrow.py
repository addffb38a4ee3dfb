"""What runs have in common is made once: finished stages of others, as hard links."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from netgpt.cluster.pipeline.run import Run
from netgpt.trainers.stages import folder


def borrow(run: Run, others: Sequence[Run]) -> list[str]:
    """Take over each stage that a run has not done and another has, of the same inputs; their names.

    Files are linked where one file system holds both, and copied where it does not: no stage changes a file
    of a finished one.
    """
    taken = []
    for name in run.possible_stages:  # in an order in which one worker could make them
        if run.is_done(name):
            continue
        inputs, own = run.inputs(name), run.folder(name)
        for other in others:
            place = other.folder(name)
            manifest = folder.read_manifest(place)
            if manifest is None or manifest["inputs"] != inputs or not folder.is_done(place, inputs):
                continue
            shutil.rmtree(own, ignore_errors=True)
            try:
                shutil.copytree(place, own, copy_function=os.link)
            except (shutil.Error, OSError):
                shutil.rmtree(own, ignore_errors=True)
                shutil.copytree(place, own)
            run.forget(name)
            taken.append(name)
            break
    return taken
