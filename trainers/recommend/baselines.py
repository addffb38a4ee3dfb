"""What a recommender must beat: popularity, neighbours of items, and a closed-form linear model.

Each gives scores of all items for some users, [B, I] float32, from the train pairs alone. An item without a
train pair scores 0 everywhere.

Legend: U users, B users of a block, I items.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from netgpt.trainers.errors import require
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import ScoresOf

MAX_BYTES = 8_000_000_000
"""Of what a baseline holds besides the pairs."""


def ease_bytes(train: Pairs) -> int:
    """[I, I] float64 three times: the Gram matrix, its inverse, and the weights."""
    return 24 * train.num_items**2


def item_neighbors_bytes(train: Pairs) -> int:
    """Pairs of items that some user has, at most: a number, an index and a cosine of each."""
    both = int((train.num_by_user.astype(np.float64) ** 2).sum())
    return 24 * min(both, train.num_items**2)


def popularity(train: Pairs) -> ScoresOf:
    """How many users an item has, for every user."""
    scores = train.num_by_item.astype(np.float32)
    return lambda users: np.broadcast_to(scores, (len(users), len(scores)))


def item_neighbors(train: Pairs, *, num_neighbors: int = 50, shrink: float = 10.0) -> ScoresOf:
    """Sums of cosines of the user's items to an item, of each item's nearest ones (ItemKNN).

    The cosine of items a, b of users A, B is |A ∩ B| / (√(|A|·|B|) + shrink) (Deshpande and Karypis, ACM TOIS
    22, 2004, with the shrinkage of Bell and Koren, 2007).
    """
    matrix = train.matrix
    both = (matrix.T @ matrix).tocsr()
    both.setdiag(0)
    both.eliminate_zeros()
    size = np.sqrt(train.num_by_item.astype(np.float64))
    rows = np.repeat(np.arange(train.num_items), np.diff(both.indptr))
    cosine = both.data / (size[rows] * size[both.indices] + shrink)
    kept = np.zeros(len(cosine), bool)
    for item in range(train.num_items):
        first, last = both.indptr[item], both.indptr[item + 1]
        nearest = np.lexsort((both.indices[first:last], -cosine[first:last]))[:num_neighbors]
        kept[first + nearest] = True
    shape = (train.num_items, train.num_items)
    near = csr_array((cosine[kept].astype(np.float32), (rows[kept], both.indices[kept])), shape=shape)
    return lambda users: (matrix[users] @ near.T).toarray()


def ease(train: Pairs, *, regularization: float = 200.0) -> ScoresOf:
    """EASE: the user's items times `ease_weights`."""
    matrix, weights = train.matrix, ease_weights(train, regularization)
    return lambda users: np.asarray(matrix[users] @ weights)


def ease_weights(train: Pairs, regularization: float) -> np.ndarray:
    """The linear map B of a user's items to all, with a diagonal of zeros, that makes ‖X − XB‖² + λ‖B‖²
    least: [I, I] float32 (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019).

    B = −P·diag(1 / diag P) off the diagonal, where P = (XᵀX + λI)⁻¹. [I, I] float64 is held while it is made.
    """
    few = f"fewer, as it inverts a dense matrix within {MAX_BYTES / 1e9:.0f} GB"
    require(ease_bytes(train) <= MAX_BYTES, "ease", f"{train.num_items:,} items", few)
    gram = (train.matrix.T @ train.matrix).toarray().astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularization
    inverse = np.linalg.inv(gram)
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights.astype(np.float32)
