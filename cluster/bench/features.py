"""Text features by the pipeline beside the bare transformers model: the same texts and batches, one worker.

Both are rates behind their first shard, so neither counts the start of processes nor the first batch;
the pipeline's whole time is given too.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netgpt.cluster.bench.measure import SYNTH_RECORDS, machine, measure
from netgpt.cluster.errors import FailedError
from netgpt.graphstore.files import read_json

_BARE = """
import json, pathlib, sys, time
from netgpt.cluster.config import load_config
from netgpt.cluster.features.encode import TEXTS_A_SHARD
from netgpt.cluster.bench.reference import reference
from netgpt.graphstore.vectors import contents_of
from netgpt.trainers.features.text import TextModel
from transformers import AutoModel, AutoTokenizer
from netgpt.trainers.processor import use_cores
config = load_config("demo", json.loads(sys.argv[3]))
use_cores(config.cluster.threads)
texts = list(contents_of(reference().open(pathlib.Path(sys.argv[1]))).texts)
features = config.features
tokens = TextModel(features).batch_tokens
tokenizer = AutoTokenizer.from_pretrained(features.text)
model = AutoModel.from_pretrained(features.text).eval()
cut = dict(truncation=True, max_length=features.max_tokens)
ends = []
with torch.inference_mode():
    for first in range(0, len(texts), TEXTS_A_SHARD):
        shard = texts[first : first + TEXTS_A_SHARD]
        ids, i = sorted(tokenizer(shard, **cut)["input_ids"], key=lambda one: -len(one)), 0
        while i < len(ids):
            batch = ids[i : i + max(1, tokens // len(ids[i]))]
            inputs = tokenizer.pad({"input_ids": batch}, return_tensors="pt")
            mask = inputs["attention_mask"][:, :, None]
            (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
            i += len(batch)
        ends.append((first + len(shard), time.perf_counter()))
json.dump(ends, open(sys.argv[2], "w"))
"""
_PIPELINE = """
import json, pathlib, sys, time
from netgpt.cluster.config import load_config
from netgpt.cluster.features import make
config, ends = load_config("demo", json.loads(sys.argv[3])), []
make.bar = lambda title, unit: lambda done, total: ends.append((done, time.perf_counter()))
make.make_features(config, pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2] + ".features"))
json.dump(ends, open(sys.argv[2], "w"))
"""
ROUNDS = 3


def bench_features(
    text: str, settings: list[str], data: Path | None, scale: float, scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """Rates of the bare model and of the pipeline, round by round in turn; the best of each."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="features-") as folder:
        root = Path(folder)
        if data is None:
            data = root / "records.json"
            if not measure(SYNTH_RECORDS, data, scale, 0).ok:
                raise FailedError("the synthetic records could not be made")
        asked = json.dumps([*settings, f"features.text={text}", "features.workers=1", "cluster.device=cpu"])
        rates: dict[str, list[float]] = {"bare": [], "pipeline": []}
        walls, texts = [], 0
        for number in range(ROUNDS):
            for name, code in (("bare", _BARE), ("pipeline", _PIPELINE)):
                out = root / f"{name}-{number}"
                done = measure(code, data, out, asked)
                if not done.ok:
                    raise FailedError(f"{name}: the texts could not be encoded")
                ends = read_json(out)
                texts = ends[-1][0]
                if len(ends) < 3:
                    raise FailedError(f"found {texts} texts, expected three shards or more: use more records")
                rates[name].append((ends[-1][0] - ends[0][0]) / (ends[-1][1] - ends[0][1]))
                if name == "pipeline":
                    walls.append(done.wall_s)
        best = {name: max(measured) for name, measured in rates.items()}
        yield {
            "bench": "features",
            "text": text,
            "texts": texts,
            "bare_texts_per_s": best["bare"],
            "pipeline_texts_per_s": best["pipeline"],
            "ratio": best["pipeline"] / best["bare"],
            "rounds": rates,
            "pipeline_wall_s": min(walls),
            "machine": machine(),
        }


def line(result: dict[str, Any]) -> str:
    return (
        f"{result['texts']:,} texts: bare model {result['bare_texts_per_s']:,.0f}/s, "
        f"pipeline {result['pipeline_texts_per_s']:,.0f}/s ({result['ratio']:.0%}), "
        f"{result['pipeline_wall_s']:.0f} s in all"
    )
