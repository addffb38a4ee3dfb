"""Our encoders, and the smallest guest, keep the contract of encoders."""

from __future__ import annotations

from tests.contracts.encoder import EncoderTests


class TestRGCN(EncoderTests):
    encoder = "rgcn"


class TestGCN(EncoderTests):
    encoder = "gcn"


class TestHAN(EncoderTests):
    encoder, mixes_tails = "han", True


class TestHetSANN(EncoderTests):
    encoder = "hetsann"


class TestSAGE(EncoderTests):
    encoder = "sage"


class TestHGT(EncoderTests):
    encoder = "hgt"


class TestToy(EncoderTests):
    encoder = "tests.toys.encoder:SAGELayer"
