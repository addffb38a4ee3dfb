"""Regressions on features that MMRA's authors compare with: SVR, and trees as HyFea has them."""

from __future__ import annotations

import numpy as np

from netgpt.trainers.multimodal.models.base import token_mean
from netgpt.trainers.multimodal.rows import ModalRows
from netgpt.trainers.tasks.base import Examples

PEERS = ("svr", "hyfea")
AT_ONCE = 4096


def features(rows: ModalRows, nodes: np.ndarray, *, mean: bool) -> np.ndarray:
    """The modalities side by side: [n, numbers]. mean: of each the mean of its tokens, else all of them."""
    parts = []
    for begin in range(0, len(nodes), AT_ONCE):
        x = rows.batch(nodes[begin : begin + AT_ONCE]).x.values()
        parts.append(np.concatenate([(token_mean(one) if mean else one.flatten(1)).numpy() for one in x], 1))
    return np.concatenate(parts)


def peer_scores(name: str, rows: ModalRows, examples: Examples, nodes: np.ndarray) -> np.ndarray:
    """Scores of some nodes [n] by a regression that is fitted on the train examples.

    svr (Khosla et al., 2014): a support vector machine with an RBF kernel, over standardised means of the
    tokens. hyfea (Lai et al., 2020): boosted trees over all numbers, at most 500 of 31 leaves, with a tenth
    of train to stop by; of scikit-learn, where the authors have CatBoost, and without users, times and tags,
    which there are not.
    """
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVR

    if name == "svr":
        model = make_pipeline(StandardScaler(), SVR())
    else:
        model = HistGradientBoostingRegressor(
            max_iter=500,
            max_depth=10,
            learning_rate=0.03,
            early_stopping=True,
            n_iter_no_change=20,
            random_state=0,
        )
    train, mean = examples.train, name == "svr"
    model.fit(features(rows, train, mean=mean), examples.truth[train])
    return np.asarray(model.predict(features(rows, nodes, mean=mean)), np.float64)
