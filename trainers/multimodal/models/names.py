"""The models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netgpt.trainers import names

if TYPE_CHECKING:
    from netgpt.trainers.multimodal.models.base import ModalModel

MODELS = {
    "mmra": "netgpt.trainers.multimodal.models.mmra:Mmra",
    "mmra-released": "netgpt.trainers.multimodal.models.released:MmraReleased",
    "cban": "netgpt.trainers.multimodal.models.cban:Cban",
    "clstm": "netgpt.trainers.multimodal.models.clstm:Clstm",
    "hmmved": "netgpt.trainers.multimodal.models.variational:Hmmved",
    "massl": "netgpt.trainers.multimodal.models.variational:Massl",
    "tmall": "netgpt.trainers.multimodal.models.tmall:Tmall",
}


def model_class(name: str) -> type[ModalModel]:
    """A model of the table, or of package.module:Name."""
    found: type[ModalModel] = names.load(MODELS, name, "multimodal.model")
    return found
