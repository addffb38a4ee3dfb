"""The picture of `netgpt bench scaling`: time, memory and throughput against nodes and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netgpt.cluster.bench.scaling import STAGES, at, exponents_of, keys, rows_of

TITLES = {
    **{"build": "build", "sample": "sample an epoch", "stage1": "stage 1, an epoch"},
    **{"embeddings": "exact inference", "tokens": "token cache", "stage2": "stage 2, fixed steps"},
}
COLOURS = {
    # Okabe and Ito's, which colour-blind readers tell apart
    **{"build": "#000000", "sample": "#E69F00", "stage1": "#0072B2"},
    **{"embeddings": "#009E73", "tokens": "#CC79A7", "stage2": "#D55E00"},
}


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG: solid lines by topic, dashed by time; exponents of the former in the legend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    workers = list(results[0]["workers"])
    most = workers[-1]
    shown = [k for k in keys(results) if "/" not in k or k.endswith(f"/{most}")]
    figure, (seconds, memory, rates) = plt.subplots(1, 3, figsize=(16, 5.4), constrained_layout=True)
    for axes, what, unit in ((seconds, "seconds", 1.0), (memory, "peak_bytes", 1e9)):
        for by, style in (("topic", "-"), ("time", "--")):
            rows = rows_of(results, by)
            nodes = [float(r["nodes"]) for r in rows]
            for key in shown:
                values = [at(r, key, what) / unit for r in rows]
                if all(v != v for v in values):
                    continue
                name = key.split("/")[0]
                power, last = (exponents_of(part, key)[what] for part in (rows, rows[-2:]))
                label = None
                if by == "topic" and power is not None and last is not None:
                    label = f"{TITLES[name]}, {power:.2f} ({last:.2f})"
                axes.plot(nodes, values, style, marker="o", ms=4, color=COLOURS[name], label=label)
        axes.set(xscale="log", yscale="log", xlabel="nodes")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, title="by topic: exponent (of the two largest)", title_fontsize=8)
    memory.yaxis.set_major_formatter(ScalarFormatter())
    memory.yaxis.set_minor_formatter(ScalarFormatter())
    seconds.set(ylabel="seconds", title=f"Time ({most} workers; solid by topic, dashed by time)")
    memory.set(ylabel="GB resident, mapped files included", title="Memory of the largest worker")
    largest = max(results, key=lambda r: r["nodes"])
    counts = {"stage1": "train_states", "embeddings": "states", "tokens": "states"}
    for name in STAGES:
        done = [
            largest["workers"][n][name].get("steps") or largest[counts.get(name, "states")] for n in workers
        ]
        rate = [d / largest["workers"][n][name]["seconds"] for d, n in zip(done, workers, strict=True)]
        per = "steps/s" if name == "stage2" else "states/s"
        rates.plot(
            [int(n) for n in workers],
            rate,
            "-",
            marker="o",
            color=COLOURS[name],
            label=f"{TITLES[name]}, {per}",
        )
    rates.set(
        yscale="log", xlabel="workers", ylabel="a second", title=f"Throughput at {largest['nodes']:,} nodes"
    )
    rates.set_xticks([int(n) for n in workers])
    rates.grid(alpha=0.3)
    rates.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
