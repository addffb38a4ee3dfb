"""Numbers as inputs, and labels that must not be among them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.graphstore.features import encode_numbers
from netgpt.graphstore.schema import Column, NodeType, RelationType, Schema
from netgpt.sampler import NeighborSampler
from netgpt.trainers.config import AblationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.leaks import check_label_is_hidden
from netgpt.trainers.graph.model import Degrees, GraphModel
from netgpt.trainers.graph.scalars import NumberEncoding
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.without import Without
from netgpt.trainers.tasks.baselines import earlier_means, link_means
from netgpt.trainers.tasks.heads import PlainHead
from tests.pairs import Pairs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs(5)


@pytest.fixture(scope="module")
def store(pairs: Pairs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    yield pairs.store(tmp_path_factory.mktemp("pairs"))


def test_numbers_are_centred_and_scaled_where_they_are_known() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.normal(1e6, 3.0, 500), np.where(rng.random(500) < 0.4, np.nan, rng.normal(size=500))]
    columns += [np.full(500, 7.0), np.full(500, np.nan)]
    encoding = NumberEncoding(12)
    x = torch.from_numpy(encode_numbers(columns))
    encoding.fit(x)
    found = encoding(x).view(500, 4, 3).numpy()
    for i, values in enumerate(columns):
        known = ~np.isnan(values)
        np.testing.assert_array_equal(found[:, i, 2], known)
        assert (found[~known, i] == 0).all()
        for place, one in ((0, values), (1, np.sign(values) * np.log1p(np.abs(values)))):
            if known.any():
                rounded = one.astype(np.float32).astype(np.float64)[known]
                spread = rounded.std()
                expected = (rounded - rounded.mean()) / (spread if spread > 1e-6 * rounded.mean() else 1.0)
                np.testing.assert_allclose(found[known, i, place], expected, atol=0.05)


@pytest.mark.parametrize("encoder", ["rgcn", "sage", "hetsann"])
def test_exact_and_sampled_states_are_equal_where_earlier_rows_tell(
    store: Store, pairs: Pairs, encoder: str
) -> None:
    """And a row's state does not hang on its own stars, nor on those of later rows."""
    torch.manual_seed(1)
    shape = ModelShape.of(
        store.schema, store.feature_dims, num_nodes=store.num_nodes, hidden=8, encoder=encoder, heads=2
    )
    model = GraphModel(shape, PlainHead).eval()
    tables = FeatureTables.of(store, CPU, shape)
    model.fit_scalars(tables, np.arange(150))
    exact, _ = embed(model, tables)
    seeds = np.random.default_rng(2).permutation(200)[:60]
    batch = NeighborSampler(store, fanout=-1, hops=2).sample(seeds)
    degrees = Degrees(store, shape, CPU) if model.uses_degrees else None
    with torch.no_grad():
        _, sampled = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
    np.testing.assert_allclose(sampled.numpy(), exact[seeds], rtol=1e-4, atol=1e-5)

    at = int(np.median(pairs.at))
    changed = FeatureTables.of(store, CPU, shape)
    late = pairs.at >= at
    stars = np.array(changed._tables["rating_stars"])
    stars[late] = stars[late][::-1] + 5
    changed._tables["rating_stars"] = torch.from_numpy(stars)
    batch = NeighborSampler(store, fanout=-1, hops=2).sample(np.arange(200))
    with torch.no_grad():
        _, other = model(model.gather(batch, changed), model.blocks(batch, CPU, degrees))
    same = np.abs(other.numpy() - exact).max(1) < 1e-4
    assert same[pairs.at <= at].all() and not same[pairs.at > at].all()


def test_baselines_of_links_and_of_earlier_rows(store: Store, pairs: Pairs) -> None:
    train, test = np.arange(120), np.arange(120, 200)
    mean = pairs.stars[train].mean()
    expected = np.full(80, mean)
    for same in (pairs.users, pairs.films):
        for i, row in enumerate(test.tolist()):
            of_end = pairs.stars[train][same[train] == same[row]]
            expected[i] += of_end.mean() - mean if len(of_end) else 0.0
    found = link_means(store, pairs.stars, train, test)
    assert found is not None and found[0] == ("user", "film")
    np.testing.assert_allclose(found[1], expected)
    truth = pairs.stars.copy()
    truth[::7] = np.nan
    train = np.flatnonzero(~np.isnan(truth[:120]))
    for relation, same in (("by_same_user", pairs.users), ("of_same_film", pairs.films)):
        means = []
        for row in test.tolist():
            known = [truth[u] for u in pairs.earlier(row, same) if not np.isnan(truth[u])]
            means.append(np.mean(known) if known else truth[train].mean())
        edge_type = ("rating_stars", relation, "rating")
        np.testing.assert_allclose(earlier_means(store, edge_type, truth, train, test), means)


def schema(*relations: RelationType, own: tuple[str, ...] = ()) -> Schema:
    """Rows with a label, told of by a type of their own."""
    row = NodeType(
        name="row",
        encoding="numbers" if own else "none",
        inputs=own,
        columns=(Column("label", "number"), Column("other", "number"), Column("at", "time")),
        time="at",
    )
    told = NodeType(name="told", encoding="numbers", inputs=("label",), origin="each", of="row")
    return Schema(
        target="row", node_types=(row, told, NodeType(name="user", encoding="none")), relations=relations
    )


EARLIER = RelationType(edge_type=("told", "earlier", "row"), group_by="user", strict=True)
LINK = RelationType(edge_type=("user", "of", "row"))
BACK = RelationType(edge_type=("row", "back", "user"))
NONE = Without(frozenset(), frozenset())


@pytest.mark.parametrize(
    ("relations", "own", "layers", "words"),
    [
        ((EARLIER,), ("label",), 1, "among the features of row, which tell it of the examples themselves;"),
        ((EARLIER, LINK, BACK), (), 3, "by way of user/of/row, row/back/user, told/earlier/row;"),
        (
            (RelationType(edge_type=("told", "not_later", "row"), group_by="user"),),
            (),
            1,
            "by way of told/not_later/row;",
        ),
        ((RelationType(edge_type=("told", "own", "row"), column="other"),), (), 1, "told/own/row"),
        (
            (RelationType(edge_type=("user", "rev_label", "row"), link="label"),),
            (),
            1,
            "by which user/rev_label/row tells",
        ),
        ((RelationType(edge_type=("row", "g", "row"), group_by="label", strict=True),), (), 1, "row/g/row"),
    ],
)
def test_a_label_that_a_model_would_be_told_is_refused(
    relations: tuple[RelationType, ...], own: tuple[str, ...], layers: int, words: str
) -> None:
    with pytest.raises(TrainerError, match=r"^task.label: found 'label'") as raised:
        check_label_is_hidden(schema(*relations, own=own), "label", layers, NONE)
    assert words in str(raised.value)


def test_what_strictly_earlier_rows_tell_is_no_leak() -> None:
    earlier = RelationType(edge_type=("row", "before", "row"), group_by="user", strict=True)
    for relations, own, layers in (
        ((EARLIER,), ("other",), 3),
        ((EARLIER, earlier), (), 4),  # earlier than earlier rows
        ((EARLIER, LINK), (), 4),
        ((EARLIER, LINK, BACK), (), 2),  # too far off
    ):
        check_label_is_hidden(schema(*relations, own=own), "label", layers, NONE)
    both = schema(EARLIER, LINK, BACK)
    check_label_is_hidden(both, "label", 3, Without(frozenset({BACK.edge_type}), frozenset()))
    check_label_is_hidden(both, "label", 3, Without.of(both, "x", AblationConfig(features=["told"])))
    check_label_is_hidden(both, "other", 3, NONE)
    others = RelationType(edge_type=("user", "label", "row"), link="label")  # a column of users
    check_label_is_hidden(schema(others), "label", 2, NONE)


def test_when_a_row_came_is_told_by_what_came_before_it() -> None:
    with pytest.raises(TrainerError, match=r"found 'at', by which told/earlier/row tells it"):
        check_label_is_hidden(schema(EARLIER), "at", 1, NONE)


@pytest.mark.parametrize(("made_of", "is_told"), [(("other", "name"), False), (("kind",), True), ((), True)])
def test_a_text_of_several_columns_may_hold_the_label(made_of: tuple[str, ...], is_told: bool) -> None:
    """A store of before it was said what a text is made of might."""
    row = NodeType(
        name="row",
        encoding="text",
        inputs=("_text",),
        made_of=made_of,
        columns=(Column("kind", "category"), Column("amount", "number")),
    )
    made = Schema(target="row", node_types=(row,), relations=())
    check_label_is_hidden(made, "amount", 2, NONE)
    if is_told:
        with pytest.raises(TrainerError, match=r"found 'kind' among the features of row, which tell it"):
            check_label_is_hidden(made, "kind", 2, NONE)
    else:
        check_label_is_hidden(made, "kind", 2, NONE)
