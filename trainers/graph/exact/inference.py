"""Embeddings and scores of all target nodes over all their neighbours."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netgpt.trainers.graph.encoders import AttentionLayer, MeanLayer
from netgpt.trainers.graph.exact.attention import attention_layer
from netgpt.trainers.graph.exact.means import MeanLayers
from netgpt.trainers.graph.exact.workspace import DEFAULT_MEMORY, MAX_BLOCK_ROWS, States, Workspace
from netgpt.trainers.graph.model import GraphModel, WholeGraph
from netgpt.trainers.graph.tables import FeatureTables, WholeContents
from netgpt.trainers.progress import OnProgress

CUMULATED_BYTES = 28
"""Bytes for each number of a cumulative sum on a GPU: gathered, in float64, summed, shifted."""


class ExactInference:
    """One inference; `run` gives the embeddings, and the rest says how it went.

    On a CPU, or where a GPU has no room for the whole graph at once, it works in blocks within
    `memory_bytes`. mean_scores: those of another inference, for layers that weigh parts by a mean over
    all target nodes: with them new nodes change nothing for the old ones.
    """

    def __init__(
        self,
        model: GraphModel,
        tables: FeatureTables,
        scratch: Path,
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        progress: OnProgress | None = None,
        mean_scores: list[list[float]] | None = None,
        keep: Collection[str] = (),
        keep_layers: bool = False,
    ) -> None:
        """keep: types whose states stay, as the last layer that reads them has them. keep_layers: states
        before every layer stay, of the types that relations end in."""
        self.model, self.tables = model, tables
        self.mean_scores = mean_scores
        """By layer the parts' of one type after the other; known after `run`, empty for layers of means."""
        self.states: dict[str, States] = {}
        """After `run` those of the types that are kept; of the target its embeddings."""
        self._last_read = {name: i for i, part in enumerate(model.parts) for name in part.node_types}
        self._keep, self._keep_layers = frozenset(keep), keep_layers
        self.layers: list[Mapping[str, States]] = []
        """After `run` the states before each layer, where they are kept."""
        self.work = Workspace(model, tables, scratch, memory_bytes, progress)

    @property
    def seconds(self) -> dict[str, float]:
        """Time by relation, over all layers, and of all that is not one relation's."""
        return self.work.seconds

    @property
    def mean_seconds(self) -> dict[str, float]:
        """The part of it that walks over rows, where rows are walked."""
        return self.work.mean_seconds

    @torch.no_grad()
    def run(self) -> np.ndarray:
        """[N, D] float32, perhaps mapped from a file in `scratch`.

        Equal to the model's forward pass with no sampling and no dropout, up to float32 rounding.
        """
        training = self.model.training
        self.model.eval()
        self.tables.graph.check_unchanged()  # reading a file that was cut off would end the process
        try:
            if self.tables.device.type == "cuda":
                if not (self._keep or self._keep_layers) and self._fits_on_gpu():
                    return WholeGraph(self.model, self.tables).run(self.model)[1].float().cpu().numpy()
                self.work.model = copy.deepcopy(self.model).cpu()
            return self._run_in_blocks(self.work.model)
        finally:
            self.tables.graph.check_unchanged()
            self.model.train(training)

    def _run_in_blocks(self, model: GraphModel) -> np.ndarray:
        mean_scores: list[list[float]] = []
        given = self.mean_scores
        means = MeanLayers(self.work)
        first = model.layer(0)
        # What a node sends may depend on its degree, which is its own
        states = self.work.inputs(by_node=isinstance(first, MeanLayer) and first.uses_degrees)
        for index in range(model.shape.num_layers):
            layer = model.layer(index)
            if self._keep_layers:
                self.layers.append(states)
            for name in (n for n in model.parts[index].node_types if n in self._keep):
                if self._last_read[name] == index:
                    self.states[name] = self._before(name, index, states)
            if isinstance(layer, MeanLayer):
                states = means.run(layer, index, states)
                mean_scores.append([])
            else:
                assert isinstance(layer, AttentionLayer)
                states, used = attention_layer(
                    self.work, layer, index, states, None if given is None else given[index]
                )
                mean_scores.append(used)
        self.mean_scores = mean_scores
        # Where no relation ends in the target, its states are of its features alone
        h = states[model.target].h if model.target in states else self.work.alone(model.target)
        if model.target in self._keep:
            self.states[model.target] = States(h, None)
        return h

    def _before(self, node_type: str, index: int, states: Mapping[str, States]) -> States:
        """States of a type as a layer reads them."""
        if node_type in states:
            return states[node_type]
        contents = WholeContents.of(self.tables, node_type)
        into = self.work.array(len(contents.x))
        before = partial(self.work.model.source, node_type, layer=index)
        return States(self.work.source_table(contents, before, into), contents.row)

    def _fits_on_gpu(self) -> bool:
        """Whether the whole graph can be one batch: states, contents, and the longest cumulative sum."""
        model, graph = self.model, self.tables.graph
        if not isinstance(model.layer(0), MeanLayer):
            return False  # attention holds every edge
        width, contents = model.shape.hidden, 0
        for name in model.shape.node_types:
            contents += len(WholeContents.of(self.tables, name).x) * (
                model.shape.feature_dims[name] + 3 * width
            )
        longest = max(len(graph.relation(e).indices) for e in model.shape.edge_types)
        states = sum(
            graph.num_nodes[name] * width * (len(model.shape.ending_in(name)) + 6)
            for name in model.shape.tail_types
        )
        free, _ = torch.cuda.mem_get_info(self.tables.device)
        return 4 * (contents + states) + CUMULATED_BYTES * longest * width < free


@torch.no_grad()
def exact_scores(model: GraphModel, h_ND: np.ndarray) -> np.ndarray:
    """Scores of embeddings: [N, D] → [N] float32."""
    training = model.training
    model.eval()
    device = next(model.predictor.parameters()).device

    def score(block: np.ndarray) -> Tensor:
        return model.score(torch.from_numpy(np.array(block)).to(device)).cpu()

    starts = range(0, len(h_ND), MAX_BLOCK_ROWS)
    parts = [score(h_ND[a : a + MAX_BLOCK_ROWS]).numpy() for a in starts]
    model.train(training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def embed(
    model: GraphModel,
    tables: FeatureTables,
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    progress: OnProgress | None = None,
    mean_scores: list[list[float]] | None = None,
    scratch: Path | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D], in memory or a map, and scores [N] of all target nodes.

    scratch: a folder for files of states; by default the system's for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".states-") as folder:
        inference = ExactInference(
            model,
            tables,
            Path(folder),
            memory_bytes=memory_bytes,
            progress=progress,
            mean_scores=mean_scores,
        )
        h = inference.run()
        return h, exact_scores(model, h)
