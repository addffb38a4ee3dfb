"""The replica of a service: one process with a run's models, behind Ray Serve's proxy."""

import asyncio
import hashlib
import hmac
import json
import logging
import secrets
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI, HTTPException, Request, Response
from ray import serve as ray_serve

from netgpt.cluster.serving.batching import Batcher
from netgpt.cluster.serving.records import Asked, BadRequestError, Body, is_loopback, read_body
from netgpt.cluster.workers.compat import close_replica

BOARD = "netgpt-counts"
"""Name of the actor that has the counts of all replicas."""
TELL_S = 10.0
"""Between two texts of a replica's counts."""
WAIT_SECONDS = 0.02
"""That a batch waits for the records that it expects."""
MOST_EXPLAINED = 16
"""Records of a request that are explained: each is some fifty answers."""
_log = logging.getLogger("ray.serve")
serve: Any = ray_serve
"""Its decorators have types that no method fits."""
close_replica()  # where this module is read in a replica, that has not begun to listen
app = FastAPI(
    title="netgpt",
    description="Answers of a trained graph model for new records.",
    docs_url=None,  # the page that FastAPI brings loads its scripts from elsewhere
    redoc_url=None,
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a service takes."""

    bytes: int
    """Of a request's body."""
    records: int
    """Of a request."""
    seconds: float
    """Of a request in its replica."""
    batch: int
    """Records that are answered together at most."""


# What the class uses is above it: Ray takes it as it is when it is decorated


def digest_of(token: str) -> str:
    """What a replica knows of the token."""
    return hashlib.sha256(token.encode()).hexdigest()


def _failed(name: str, error: Exception) -> Any:
    """What is said of a record that failed through no fault of its own; call it where the error is caught."""
    from netgpt.cluster.serving.predictor import Refused

    _log.exception("%s failed", name)
    return Refused(name, f"{name}: failed ({type(error).__name__})", failed=True)


def _said(answer: Any, embedding: bool) -> dict[str, Any]:
    from netgpt.cluster.serving.predictor import Refused

    if isinstance(answer, Refused):
        return {"id": answer.id, "error": answer.error, **({"failed": True} if answer.failed else {})}
    return answer.prediction.to_dict() | ({"embedding": answer.embedding.tolist()} if embedding else {})


@serve.deployment(name="netgpt")
@serve.ingress(app)
class Service:
    def __init__(
        self, run: str, made: str, device: str, text: str | None, token_digest: str, limits: Limits
    ) -> None:
        """made: `trained_digest` of the run as the service was started with it: a replica that comes later
        must not answer by another model. token_digest: of the token that requests show; empty: none is asked
        for."""
        import torch

        from netgpt.cluster.pipeline.run import Run
        from netgpt.cluster.serving.counts import Counts
        from netgpt.cluster.serving.predictor import predictor_of, require_unchanged

        self.limits, self._token_digest = limits, token_digest
        opened = Run.open_(Path(run))
        require_unchanged(opened, made)
        self.predictor = predictor_of(opened, torch.device(device), text=text)
        require_unchanged(opened, made)  # nor be half of one
        self.counts = Counts(serve.get_replica_context().replica_id.unique_id)
        self._about = self.predictor.about()
        self._page = (resources.files("netgpt.cluster") / "serving" / "templates" / "page.html").read_text(
            encoding="utf-8"
        )
        self._thread = ThreadPoolExecutor(1)
        threading.Thread(target=self._tell, daemon=True).start()
        self._batcher = Batcher(self._together, limits.batch, WAIT_SECONDS)

    @app.get("/healthz")
    async def health(self) -> dict[str, Any]:
        """Whether the service answers. Asks for no token."""
        return {
            "status": "ok",
            "run": self.predictor.run.path.name,
            "task": self.predictor.run.task.config.name,
        }

    @app.get("/", include_in_schema=False)
    async def page(self) -> Response:
        """Where a person pastes a record. It asks for the token itself."""
        nonce = secrets.token_urlsafe(16)
        own = f"'nonce-{nonce}'"
        allowed = f"default-src 'none'; script-src {own}; style-src 'unsafe-inline'; connect-src 'self'"
        headers = {"Content-Security-Policy": f"{allowed}; base-uri 'none'; frame-ancestors 'none'"}
        return Response(self._page.replace("{{ nonce }}", nonce), media_type="text/html", headers=headers)

    @app.get("/about")
    async def about(self, request: Request) -> dict[str, Any]:
        """What is answered, and how the labels of the train examples lie."""
        self._require_token(request)
        return {**self._about, "token": bool(self._token_digest)}

    @app.get("/metrics")
    async def metrics(self, request: Request) -> Response:
        """Counts of all replicas, for Prometheus."""
        from netgpt.cluster.serving.counts import merged

        self._require_token(request)
        return Response(merged(await self._all_counts()), media_type="text/plain; version=0.0.4")

    @app.post("/predict")
    async def predict(self, request: Request, embedding: bool = False, explain: bool = False) -> Response:
        """Answers for new records: one as a JSON object, several as a list or {"records": […]}, or as lines.

        With `embedding=true` each answer has the graph model's vector, with `explain=true` what each thing
        that the models read changes in it. A bad record has an `error` in its place, and the others are
        answered.
        """
        start, status = time.perf_counter(), 500
        try:
            response = await self._predict(request, embedding, explain)
            status = response.status_code
            return response
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self.counts.requests.labels(self.counts.replica, str(status)).inc()
            self.counts.seconds.observe(time.perf_counter() - start)

    async def _predict(self, request: Request, embedding: bool, explain: bool) -> Response:
        self._require_token(request)
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = read_body(await self._body(request), self.limits.records)
                answers = await self._answers(body, embedding, explain)
        except BadRequestError as error:
            raise HTTPException(error.status, str(error)) from None
        except TimeoutError:
            raise HTTPException(504, f"found no answer in {self.limits.seconds:g} seconds") from None
        if body.form == "lines":
            text = "".join(f"{json.dumps(one, ensure_ascii=False)}\n" for one in answers)
            return Response(text, media_type="application/x-ndjson")
        if body.form == "many":
            text = json.dumps({"answers": answers}, ensure_ascii=False)
            return Response(text, media_type="application/json")
        (one,) = answers
        text = json.dumps(one, ensure_ascii=False)
        status = 500 if "failed" in one else 422 if "error" in one else 200
        return Response(text, status, media_type="application/json")

    def _require_token(self, request: Request) -> None:
        if not self._token_digest:
            # No page of elsewhere, by a name of its own for this address
            host = request.url.hostname or ""
            if not is_loopback(host):
                raise HTTPException(403, f"found the host {host!r}, expected a loopback address")
            return
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        known = kind.lower() == "bearer" and hmac.compare_digest(digest_of(token.strip()), self._token_digest)
        if not known:
            expected = "found no known token, expected the header Authorization: Bearer TOKEN"
            raise HTTPException(401, expected, {"WWW-Authenticate": "Bearer"})

    async def _body(self, request: Request) -> bytes:
        most = self.limits.bytes
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > most:
            raise BadRequestError(f"body: found {int(said):,} bytes, expected at most {most:,}", 413)
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > most:
                raise BadRequestError(f"body: found more than {most:,} bytes", 413)
        return bytes(data)

    async def _answers(self, body: Body, embedding: bool, explain: bool) -> list[dict[str, Any]]:
        good = [(i, one) for i, one in enumerate(body.asked) if one.record is not None]
        if explain and len(body.asked) > MOST_EXPLAINED:
            found_words = f"explain: found {len(body.asked):,} records, expected at most {MOST_EXPLAINED}"
            raise BadRequestError(found_words, 413)
        how = self._explained if explain else self._batcher.answer
        found = await asyncio.gather(*(how(one) for _, one in good))
        made: list[dict[str, Any]] = [{"error": one.error} for one in body.asked]
        for (i, _), answer in zip(good, found, strict=True):
            made[i] = _said(answer, embedding)
        refused = sum("error" in one for one in made)
        self.counts.refused.inc(refused)
        self.counts.records.inc(len(made) - refused)
        return made

    async def _explained(self, asked: Asked) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._reasons, asked)

    def _reasons(self, asked: Asked) -> Any:
        try:
            return self.predictor.explained(asked.record or {}, asked.name)
        except Exception as error:
            return _failed(asked.name, error)

    async def _together(self, asked: Sequence[Asked]) -> Sequence[Any]:
        """Answers of records, whosever they are, which are computed together."""
        self.counts.batch.observe(len(asked))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._computed, asked)

    def _computed(self, asked: Sequence[Asked]) -> Sequence[Any]:
        records = [(one.name, one.record or {}) for one in asked]
        try:
            return self.predictor.answers(records)
        except Exception:
            _log.exception("a batch of %d records failed; each is tried by itself", len(asked))
        made: list[Any] = []
        for name, record in records:
            try:
                made += self.predictor.answers([(name, record)])
            except Exception as error:
                made.append(_failed(name, error))
        return made

    def _tell(self) -> None:
        """Tell the board, again and again: also of a replica that nobody asks anything."""
        while True:
            with suppress(ValueError, ray.exceptions.RayError):  # it is not there, or not yet
                ray.get(self._put(), timeout=TELL_S)
            time.sleep(TELL_S)

    async def _all_counts(self) -> list[str]:
        try:
            texts: list[str] = await self._put()
        except (ValueError, ray.exceptions.RayError):  # it is not there: what is known is this replica's
            return [self.counts.text()]
        return texts

    def _put(self) -> Any:
        """To the board: a reference to the texts of all. ValueError where there is none."""
        board: Any = ray.get_actor(BOARD)
        return board.put.remote(self.counts.replica, self.counts.text())
