"""The recommenders by name."""

from __future__ import annotations

from netgpt.trainers import names
from netgpt.trainers.recommend.models.base import Recommender

MODELS = {
    "bpr": "netgpt.trainers.recommend.models.lightgcn:MatrixFactorization",
    "lightgcn": "netgpt.trainers.recommend.models.lightgcn:LightGCN",
    "ngcf": "netgpt.trainers.recommend.models.ngcf:NGCF",
    "sage": "netgpt.trainers.recommend.models.sage:SAGE",
    "mmgcn": "netgpt.trainers.recommend.models.mmgcn:MMGCN",
    "acf": "netgpt.trainers.recommend.models.acf:ACF",
    "sasrec": "netgpt.trainers.recommend.models.sasrec:SASRec",
    "shl": "netgpt.trainers.recommend.models.shl:SHL",
}


def model_class(name: str) -> type[Recommender]:
    """The class of a model of the table, or of package.module:Name."""
    kind: type[Recommender] = names.load(MODELS, name, "recommender.model")
    return kind
