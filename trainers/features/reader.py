"""Frames read in a process of its own: a file that hangs or crashes the decoder ends that process alone.

The reader is sent paths, a JSON line each, and answers with a JSON line and the frames' bytes. Before
each file it sets an alarm whose default action ends it, so it does not outlive its time even where the
process that asked is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.frames import BROKEN, TOO_LONG, FramesError, Rule, read_frames, rule_from_json

_READY = b"ready\n"
_MARGIN_S, _END_S = 30.0, 10.0
_CRASHES = tuple(-n for n in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
"""Ends that a damaged file can bring about."""


class FrameReader:
    """Reads files one after the other, each within a time limit. Close it at the end."""

    def __init__(self, rule: Rule, timeout_s: float) -> None:
        self.rule, self.timeout_s = rule, timeout_s
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path) -> np.ndarray:
        """The chosen frames of a file: [F, 3, H, W] uint8. FramesError says why there are none."""
        pipe = self._process or self._start()
        assert pipe.stdin is not None and pipe.stdout is not None
        try:
            pipe.stdin.write(json.dumps({"path": str(path), "timeout_s": self.timeout_s}).encode() + b"\n")
            pipe.stdin.flush()
            # Its own alarm ends it; but not where it hangs in the kernel, as on a file server that is gone
            if not select.select([pipe.stdout], [], [], self.timeout_s + _MARGIN_S)[0]:
                self._end()
                raise FramesError(TOO_LONG, f"more than {self.timeout_s:g} s")
            answer = json.loads(pipe.stdout.readline() or b"null")
            if answer and "shape" in answer:
                frames = np.empty(answer["shape"], np.uint8)
                if pipe.stdout.readinto(frames.data.cast("B")) == frames.nbytes:  # type: ignore[attr-defined]
                    return frames
                answer = None
        except (BrokenPipeError, json.JSONDecodeError):
            answer = None
        if answer:
            raise FramesError(answer["reason"], answer["found"])
        code = self._end()
        if code == -signal.SIGALRM:
            raise FramesError(TOO_LONG, f"more than {self.timeout_s:g} s")
        if code in _CRASHES:
            raise FramesError(BROKEN, f"the decoder ended with {code}")
        raise TrainerError(f"{path}: the decoder ended with {code} (killed? out of memory?)")

    def _start(self) -> subprocess.Popen[bytes]:
        """A process whose imports are done. TrainerError where they fail: that is no file's fault."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "netgpt.trainers.features.reader", json.dumps(self.rule.to_json())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != _READY:
            raise TrainerError(f"the process that decodes videos did not start: exit {self._end()}")
        return self._process

    def _end(self) -> int:
        """End the process; its exit status. The next file starts another."""
        assert self._process is not None
        process, self._process = self._process, None
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            code = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # in the kernel: it ends when it can
                process.wait(_END_S)
            code = -signal.SIGKILL
        process.stdout.close()
        return code

    def close(self) -> None:
        if self._process is not None:
            self._end()

    def __enter__(self) -> FrameReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _serve(rule: Rule) -> None:
    """Answer until standard input ends."""
    import av

    av.logging.set_level(None)  # damaged files are this process's daily bread
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    answers.write(_READY)
    answers.flush()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, asked["timeout_s"])
        frames, answer = b"", dict[str, Any]()
        try:
            images = read_frames(Path(asked["path"]), rule)
            frames, answer = images.tobytes(), {"shape": images.shape}
        except FramesError as error:
            answer = {"reason": error.reason, "found": error.found}
        except MemoryError:
            raise  # this process's lack, not the file's fault
        except Exception as error:  # what a damaged file makes a library raise has no common class
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            answer = {"reason": BROKEN, "found": said}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer).encode() + b"\n" + frames)
        answers.flush()


if __name__ == "__main__":
    _serve(rule_from_json(json.loads(sys.argv[1])))
