"""What every data set must keep. Subclass it in the guest's test:

    class TestMine(DatasetTests):
        dataset = Mine()
        config = Mine.Config(encoder="hash:16")

        def parts(self, source, folder): ...   # the source's file cut in two, in order

The source is the data set's synthetic twin, or what the subclass's `source` fixture gives.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import BuildConfig, Dataset, ExtendedGraph, Store, StoreError
from netgpt.graphstore.columns import NodeWriters
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.datasets import names
from netgpt.graphstore.documents import documents
from netgpt.graphstore.features import Encoders, NoVideos
from netgpt.graphstore.schema import Schema
from netgpt.graphstore.vectors import contents_of


class DatasetTests:
    """Contract tests of one data set."""

    dataset: ClassVar[Dataset]
    config: ClassVar[BuildConfig]
    suffix: ClassVar[str] = ".json"
    """How the name of a source ends."""
    scale: ClassVar[float] = 0.0005

    def parts(self, source: Path, folder: Path) -> tuple[Path, Path]:
        """The source's rows cut in two, one file each, none of the first refers to one of the second."""
        raise NotImplementedError

    def bad(self, source: Path, folder: Path) -> Path:
        """A source with something wrong in it, not in its first row."""
        data = source.read_bytes()
        path = folder / f"bad{source.suffix}"
        path.write_bytes(data[: int(len(data) * 0.7)])
        return path

    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("source") / f"source{self.suffix}"
        assert self.dataset.write_synthetic(path, self.scale, 1) > 0
        return path

    @pytest.fixture(scope="class")
    def whole(self, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
        out = tmp_path_factory.mktemp("whole") / "store"
        graphstore.build(source, out, self.config, dataset=self.dataset)
        return graphstore.open(out)

    @pytest.fixture(scope="class")
    def halves(self, source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
        """A store of the first part, and the file of the second."""
        folder = tmp_path_factory.mktemp("halves")
        first, second = self.parts(source, folder)
        graphstore.build(first, folder / "store", self.config, dataset=self.dataset)
        return folder / "store", second

    def test_it_is_found_by_its_name_and_by_its_files(self, source: Path, whole: Store) -> None:
        assert names.load(names.key_of(self.dataset)).name == self.dataset.name == whole.dataset.name
        assert self.dataset.reads(source)
        for name in names.DATASETS:
            assert names.load(name).reads(source) == (name == self.dataset.name), name

    def test_the_schema_comes_back_from_json(self, source: Path, whole: Store) -> None:
        schema = self.dataset.open(source, self.config).schema
        assert list(schema.problems()) == []
        assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema == whole.schema

    def test_two_builds_are_the_same_bytes(self, source: Path, whole: Store, tmp_path: Path) -> None:
        graphstore.build(source, tmp_path / "again", self.config, dataset=self.dataset)
        assert graphstore.open(tmp_path / "again").digest == whole.digest

    def test_the_synthetic_twin_is_its_file(self, whole: Store, tmp_path: Path) -> None:
        twin = self.dataset.synthetic(self.scale, 1, self.config)
        graphstore.build(twin, tmp_path / "twin", self.config, dataset=self.dataset)
        one, other = graphstore.open(tmp_path / "twin").seal.files, whole.seal.files
        assert one.keys() == other.keys() and {n for n in one if one[n] != other[n]} == {"zarr.json"}

    def test_a_built_store_is_sound(self, whole: Store) -> None:
        assert graphstore.verify(whole.path) == []

    def test_there_are_as_many_rows_as_the_schema_says(self, source: Path, whole: Store) -> None:
        opened, schema = self.dataset.open(source, self.config), whole.schema
        seen = dict.fromkeys((n.name for n in schema.node_types if n.origin == "rows"), 0)
        for block in opened.blocks():
            assert {len(cells) for cells in block.columns.values()} == {len(block)}
            seen[block.table] += len(block)
        given = opened.num_nodes()
        for node in schema.node_types:
            num = whole.num_nodes[node.name]
            if node.origin == "rows":
                assert num == (seen[node.name] or given.get(node.name, 0))
            elif node.origin == "each":
                assert num == whole.num_nodes[node.of]
            else:
                assert num == len(whole.category(node.of, node.column)[1])
            if node.encoding != "none":
                assert len(whole.features(node.name).gather(np.arange(num))) == num
            for column in node.columns:
                assert whole.has_column(node.name, column.name)
                read = whole.strings if column.is_text else whole.column
                assert len(read(node.name, column.name)) == num
        assert opened.report.num_read == whole.num_nodes[schema.target]
        for edge_type in whole.edge_types:
            relation = whole.relation(edge_type)
            assert relation.num_dst == whole.num_nodes[edge_type[2]]
            assert relation.num_edges == whole.num_edges[edge_type]

    def test_documents_have_the_fields_that_the_schema_names(self, whole: Store) -> None:
        for document in whole.schema.documents:
            fields = [f.name for f in document.fields]
            for _, text in documents(whole, document, range(whole.num_nodes[document.node_type])):
                keys = list(json.loads(text))
                assert [name for name in fields if name in keys] == keys  # all known, in their order

    def test_appending_is_building_from_all(
        self, halves: tuple[Path, Path], whole: Store, tmp_path: Path
    ) -> None:
        store, second = halves
        made, report = graphstore.append(store, second, tmp_path / "made")
        joined = graphstore.open(made)
        assert graphstore.verify(made) == []
        one, other = joined.seal.files, whole.seal.files
        assert one.keys() == other.keys() and {n for n in one if one[n] != other[n]} == {"zarr.json"}
        for name in ("num_nodes", "relations", "schema", "dataset"):
            assert joined.attributes[name] == whole.attributes[name]
        old = graphstore.open(store).num_nodes
        assert report.num_read == whole.num_nodes[whole.schema.target] - old[whole.schema.target]

    def test_joining_in_memory_is_appending_for_the_new_nodes(
        self, halves: tuple[Path, Path], whole: Store
    ) -> None:
        store, second = graphstore.open(halves[0]), halves[1]
        taken = store.taken_ids()
        opened = HeldSource(self.dataset.open(second, self.config, require_labels=False, known_ids=taken))
        graph = ExtendedGraph(store, opened)
        assert graph.num_nodes == whole.num_nodes
        assert graph.num_old + graph.num_new == whole.num_nodes[whole.schema.target]
        for edge_type in whole.edge_types:
            before, joined, after = (g.relation(edge_type) for g in (store, graph, whole))
            for v in range(whole.num_nodes[edge_type[2]]):
                expected = before if v < before.num_dst else after
                assert joined.neighbors(v).tolist() == expected.neighbors(v).tolist()
        for node in whole.schema.node_types:
            everything = np.arange(whole.num_nodes[node.name])
            if node.encoding != "none":
                found, expected_x = (g.features(node.name).gather(everything) for g in (graph, whole))
                np.testing.assert_array_equal(found, expected_x)
            for column in node.columns:
                for read in ("strings",) if column.is_text else ("column",):
                    mine, theirs = (getattr(g, read)(node.name, column.name) for g in (graph, whole))
                    assert list(mine) == list(theirs), column.name
        with pytest.raises(StoreError, match="already has"):
            ExtendedGraph(graphstore.open(halves[0]), self.dataset.open(self.first_part(halves), self.config))

    def first_part(self, halves: tuple[Path, Path]) -> Path:
        """The file that the store of the first part is made of."""
        return halves[1].with_name(f"first{self.suffix}")

    def test_all_texts_that_are_encoded_are_contents(self, source: Path) -> None:
        contents = contents_of(self.dataset.open(source, self.config))
        asked: list[str] = []

        class Noting:
            name, dim = "noting", 4

            def encode(self, texts: list[str]) -> np.ndarray:
                asked.extend(texts)
                return np.zeros((len(texts), 4), np.float16)

        opened = self.dataset.open(source, self.config)
        writers = NodeWriters(
            self.folder, opened.schema, Encoders(Noting(), NoVideos(2), self.config.time_dim)
        )
        for block in opened.blocks():
            writers.append("source", block)
        writers.close(opened.num_nodes())
        assert set(asked) == set(contents.texts) and len(contents.texts) <= contents.num_texts

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path / "nodes"
        self.folder.mkdir()

    def test_bad_input_leaves_nothing(self, source: Path, halves: tuple[Path, Path], tmp_path: Path) -> None:
        bad = self.bad(source, tmp_path)
        there = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(StoreError) as caught:
            graphstore.build(bad, tmp_path / "store", self.config, dataset=self.dataset)
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
        with pytest.raises(StoreError):
            graphstore.append(halves[0], bad, tmp_path / "made")
        assert sorted(p.name for p in tmp_path.iterdir()) == there
        assert graphstore.verify(halves[0]) == []

    def test_facts_and_cells_are_of_the_nodes(self, whole: Store) -> None:
        target, num = whole.schema.target, whole.num_nodes[whole.schema.target]
        facts = self.dataset.facts(whole)
        assert facts.counts and all(len(values) == len(facts.quantile_names) for _, values in facts.quantiles)
        assert all(sum(shown.values()) <= num for shown in facts.categories.values())
        cells = self.dataset.cells(whole, np.arange(num))
        assert cells is None or all(len(cell) == num for cell in cells)
        statistics = self.dataset.statistics(whole)
        assert statistics is None or json.loads(json.dumps(statistics))
        if whole.schema.split is not None:
            parts = [set(whole.split(name).tolist()) for name in ("train", "test")]
            assert not parts[0] & parts[1] and parts[0] | parts[1] == set(range(num)), target
