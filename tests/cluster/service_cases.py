"""A service of a whole run: its answers, its refusals, its page, its faults; and reasons.

Tests that `test_run.py` takes in: the run that they share takes a minute."""

from __future__ import annotations

import copy
import json
import re
import shutil
import socket
import time
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from browser import Page, browser
from runs import SETTINGS, alone, netgpt
from serving import TOKEN, Service, service
from test_jobs import grpc_codes, http_status, listening

from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.serving.predictor import Answer, Predictor
from netgpt.graphstore import Graph, Relation
from netgpt.graphstore.documents import documents
from netgpt.graphstore.features import Features
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.tables import FeatureTables
from tests.program import called


@pytest.fixture(scope="module")
def served(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(whole, tmp_path_factory.mktemp("serve") / "log", "--max-bytes", 400_000) as made:
        yield made


def test_a_service_answers_as_predict_does(
    served: Service, whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whatever is asked together, in any order and form."""
    records = alone(data[1])
    sent = [{"id": key, **record} for key, record in records.items()]
    expected = {}
    for key in list(records)[:3]:
        (tmp_path / "one.json").write_text(json.dumps({key: records[key]}, ensure_ascii=False))
        expected[key] = json.loads(called("predict", whole, "--data", tmp_path / "one.json").stdout)
    for one in sent[:3]:
        answer = served.answers(one)
        assert answer["id"] == one["id"] and answer["level"] == expected[one["id"]]["level"]
        assert answer["score"] == pytest.approx(expected[one["id"]]["score"], abs=2e-6)
    together = served.answers(sent)["answers"]
    turned = served.answers({"records": sent[::-1]})["answers"][::-1]
    lines = served.ask("/predict", "\n".join(json.dumps(one) for one in sent).encode())[1]
    assert len(together) == len(sent) > 3
    for a, b, c, one in zip(together, turned, map(json.loads, lines.splitlines()), sent, strict=True):
        assert a["id"] == b["id"] == c["id"] == one["id"]
        assert a["score"] == pytest.approx(b["score"], abs=2e-6) == c["score"]
        if one["id"] in expected:
            assert a["score"] == pytest.approx(expected[one["id"]]["score"], abs=2e-6)
    status, text = served.ask("/predict?explain=true", [sent[0], {"a": 1}])
    explained, refused = json.loads(text)["answers"]
    assert (
        status == 200
        and "error" in refused
        and {one["kind"] for one in explained["why"]} >= {"relation", "field"}
    )
    assert explained["score"] == pytest.approx(together[0]["score"], abs=2e-6)
    assert served.ask("/predict?explain=true", sent * 9)[0] == 413
    status, text = served.ask("/predict?embedding=true", sent[0])
    vector = json.loads(text)["embedding"]
    assert status == 200 and len(vector) == 8 and np.isfinite(vector).all()


def test_a_service_refuses_by_record_and_by_request(served: Service, data: tuple[Path, Path]) -> None:
    first, second, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    bad = {**first, "当前点赞量": "many"}
    answers = served.answers([first, 7, bad, second, {"a": 1}])["answers"]
    assert ["error" in one for one in answers] == [False, True, True, False, True]
    assert "record 3" in answers[2]["error"] and "当前点赞量" in answers[2]["error"]
    assert answers[2]["error"].count("/") == 0  # no path of the service's machine
    status, text = served.ask("/predict", bad)
    assert status == 422 and json.loads(text)["error"].startswith("record: ")
    assert served.ask("/predict", b"{bad")[0] == 400 and served.ask("/predict", b"")[0] == 400
    large = b"[" + b" " * 500_000 + b"]"
    status, text = served.ask("/predict", large)
    assert status == 413 and "500,002 bytes, expected at most 400,000" in text
    assert served.ask("/predict", iter([large]))[0] == 413
    for path, body in (("/predict", first), ("/metrics", None)):
        for token in ("", "another", TOKEN[:-1]):
            status, text = served.ask(path, body, token=token)
            assert status == 401 and "Authorization: Bearer TOKEN" in text
    counts = served.ask("/metrics")[1]
    assert 'status="401"} 3.0' in counts and "netgpt_request_seconds_bucket" in counts
    assert json.loads(served.ask("/openapi.json", token="")[1])["paths"].keys() >= {"/predict", "/healthz"}


def test_no_port_of_a_service_answers_without_a_token(served: Service) -> None:
    places = listening(served.pids)
    assert ("127.0.0.1", served.port) in places and len(places) > 5
    for place in places - {("127.0.0.1", served.port)}:
        statuses = {http_status(place, path) for path in ("/", "/metrics", "/api/jobs/")}
        assert statuses <= {401, 403, None}, (place, statuses)
        codes = grpc_codes(place) if statuses == {None} else set()
        assert "OK" not in codes and (not codes or "UNAUTHENTICATED" in codes), (place, codes)


def test_reasons_are_what_an_answer_is_without_them(whole: Path, data: tuple[Path, Path]) -> None:
    """By exact inference over the whole graph with an empty row, and prompts whose JSON lacks a field."""
    check_reasons(Run.open_(whole), [{"id": k, **r} for k, r in alone(data[1]).items()][1])


def check_reasons(run: Run, record: dict[str, Any]) -> None:
    cpu = torch.device("cpu")
    predictor = Predictor(run, cpu)
    answer = predictor.explain(record, "record")
    reasons = answer.prediction.why or ()
    (plain,) = predictor.answers([("record", record)])
    assert isinstance(plain, Answer) and plain.prediction == replace(answer.prediction, why=None)
    assert [abs(r.change) for r in reasons] == sorted((abs(r.change) for r in reasons), reverse=True)
    graph = predictor.join(record, "record")
    model, task, (node,) = predictor._new_nodes.model, run.task, graph.new.tolist()
    language = predictor._language
    assert language is not None
    ((name, text),) = documents(graph, language.document, [node])

    def score(changed: Graph, text: str) -> float:
        h, of_graph = embed(model, FeatureTables.of(changed, cpu, model.shape, max_bytes=0))
        own = h[node : node + 1], of_graph[node : node + 1]
        found = language.of(language.tokens([(name, text)]), *own, [record["id"]], lambda *_: None)
        return float(task.reported(found)[0])

    full, seen = score(graph, text), {}
    for reason in reasons:
        changed, words = copy.copy(graph), text
        if reason.kind == "relation":
            (edge_type,) = (e for e in model.shape.edge_types if e[1] == reason.name and e[2] == "video")
            old = graph.relation(edge_type)
            rows = [[] if v == node else old.neighbors(v).tolist() for v in range(old.num_dst)]
            ends = np.cumsum([len(row) for row in rows])
            heads = np.array([head for row in rows for head in row], old.indices.dtype)
            emptied = Relation(edge_type, "csr", heads, ends - [len(row) for row in rows], ends)
            changed._relations = {**graph._relations, edge_type: emptied}
        elif reason.name == "当前时间":
            continue  # what comments are shown depends on it too, where it is not there at all
        elif reason.kind == "field":
            words = json.dumps({k: v for k, v in json.loads(text).items() if k != reason.name})
        else:
            x = graph.features("video").gather(np.arange(graph.num_nodes["video"]))
            x[node] = 0
            changed._features = {**graph._features, "video": Features(len(x), x, None)}
        assert reason.change == pytest.approx(full - score(changed, words), abs=3e-5), reason
        seen[reason.kind] = seen.get(reason.kind, 0) + 1
    assert seen["relation"] > 5 and seen["field"] > 5
    assert max(abs(r.change) for r in reasons) > 1e-3


@pytest.mark.parametrize("width", [400, 1300])
def test_a_person_asks_in_a_browser(
    width: int, served: Service, data: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    expected = served.answers(first)

    def asked(page: Page, body: str, ready: str) -> None:
        page.value(f"document.getElementById('record').value = {json.dumps(body)}")
        page.value("document.getElementById('ask').click()")
        page.wait(f"!document.getElementById('ask').disabled && ({ready})")
        assert page.value("document.documentElement.scrollWidth") <= width

    with browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{served.port}/#token={TOKEN}", width, 900)
        page.wait("document.getElementById('about').textContent !== ''")
        assert page.value("location.hash") == ""
        assert page.value("document.getElementById('title').textContent") == "whole"
        asked(page, json.dumps(first), "!document.getElementById('one').hidden")
        assert page.value("document.getElementById('value').textContent") == str(expected["level"])
        told = re.search(r"score ([0-9.]+)", page.value("document.getElementById('said').textContent"))
        assert told is not None and float(told[1]) == pytest.approx(expected["score"], abs=2e-6)
        assert page.value("document.querySelectorAll('#bars div').length") == 10
        assert (
            page.value("[...document.querySelectorAll('#bars div')].findIndex(b => b.className)")
            == (expected["level"])
        )
        why = json.loads(served.ask("/predict?explain=true", first)[1])["why"]
        told = page.value(
            "[...document.querySelectorAll('#why tbody tr')].map(row => row.cells[0].textContent)"
        )
        shown = [one["name"] for one in why if abs(one["change"]) >= 5e-5][:16]
        assert sorted(told) == sorted(shown) and len(told) > 3
        evil = {**second, "id": "<img src=x onerror=alert(1)>", "当前点赞量": "many"}
        asked(page, json.dumps([first, evil]), "!document.getElementById('many').hidden")
        assert page.value("document.querySelectorAll('#many tbody tr').length") == 2
        assert page.value("document.images.length") == 0
        bad = [
            page.value(f"document.querySelectorAll('#many tr:last-child td')[{i}].textContent")
            for i in (0, 3)
        ]
        assert bad[0] == evil["id"] and "当前点赞量" in bad[1]
        asked(page, "{bad", "!document.getElementById('error').hidden")
        assert "found no JSON" in page.value("document.getElementById('error').textContent")
        page.value("document.getElementById('token').value = 'another'")
        asked(page, json.dumps(first), "!document.getElementById('error').hidden")
        assert "no known token" in page.value("document.getElementById('error').textContent")
        # The browser itself tells of the answers 400 and 401
        assert not [one for one in page.said if "status of 40" not in one]


@pytest.mark.all
def test_a_replica_that_is_killed_comes_back(served: Service, data: tuple[Path, Path]) -> None:
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    expected = served.answers(first)
    (replica,) = served.replicas()
    replica.kill()
    end, seen = time.monotonic() + 120, set()
    while time.monotonic() < end:
        status, text = served.ask("/predict", first)
        seen.add(status)
        if status == 200:
            break
        time.sleep(0.5)
    assert json.loads(text) == expected and seen <= {200, 500, 503}
    assert served.replicas()[0].pid != replica.pid


@pytest.mark.all
def test_slow_clients_keep_nobody_waiting(whole: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    """Forty that send a byte now and then, and one a body of 100 MB; each gets an end of its own."""
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    body = json.dumps(first).encode()
    with service(whole, tmp_path / "log", "--seconds", 6, "--max-bytes", 400_000) as served:
        expected = served.answers(first)
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        slow = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(40)]
        for one in slow:
            one.sendall(head)
        for place in range(4):
            for one in slow:
                one.sendall(body[place : place + 1])
            assert served.answers(first) == expected
        said = [one.recv(1 << 16) for one in slow]  # their time is over some time
        assert all(text.startswith(b"HTTP/1.1 504") for text in said), set(said)
        for one in slow:
            one.close()
        with suppress(urllib.error.URLError):  # the service hangs up on who does not stop
            status, text = served.ask("/predict", iter([b"[" + b" " * (1 << 20)] * 100))
            assert status == 413 and "400,000" in text
        assert served.answers(first) == expected


@pytest.mark.all
def test_a_run_that_is_trained_again_meanwhile_changes_no_answer(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Who was there answers as before; who comes later refuses another model, also where it is whole."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    log = tmp_path / "log"
    with service(run, log, "--seconds", 5, ends=2) as served:
        expected = served.answers(first)
        other = ("graph.lr=0.02", "seed=5", "stages=[stage1,embeddings,base,tokens,stage2,stage3,evaluation]")
        told = ("--config", "demo", "--data", data[0], "--out", run, *SETTINGS, *other)
        done = netgpt("pretrain", *told)
        assert done.returncode == 0, done.stderr[-2000:]
        assert served.answers(first) == expected
        (replica,) = served.replicas()
        replica.kill()
        end, seen = time.monotonic() + 40, set()
        while time.monotonic() < end:
            status, text = served.ask("/predict", first)
            seen.add(status)
            assert status != 200 or json.loads(text) == expected
            time.sleep(1)
        assert seen <= {200, 408, 500, 503, 504} and seen != {200}
        assert served.process.wait(150) == 2  # no replica comes back
    assert "found another model than the service began with" in log.read_text().splitlines()[-1]


@pytest.mark.all
def test_a_service_whose_ray_is_gone_ends_and_says_so(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    log = tmp_path / "log"
    with service(whole, log, ends=2) as served:
        served.answers(first)
        children = psutil.Process(served.process.pid).children(recursive=True)
        for one in children:
            if one.name() in ("raylet", "gcs_server"):
                one.kill()
        assert served.process.wait(150) == 2
        with pytest.raises(OSError):
            served.ask("/predict", first)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
    last = log.read_text().strip().splitlines()[-1]
    assert "found no head of Ray, expected the service: start it again" in last


def test_a_run_that_is_not_done_is_not_served(data: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    done = called("serve", tmp_path)
    assert done.returncode == 2
    done = called("serve", whole, "--host", "0.0.0.0", "--open")
    assert done.returncode == 2 and "without a token, expected a loopback address" in done.stderr
