"""The paper's text and multimodal baselines: low-rank adapters of PEFT on the same packs."""

from __future__ import annotations

from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from netgpt.trainers.config import LoraConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.model.netgpt import PackedLM


class LoraLM(PackedLM):
    """A language model without graph token and head, whose adapters alone are trained."""

    def __init__(self, base: PreTrainedModel, config: LoraConfig) -> None:
        super().__init__(base)
        modules = self.text.layers.named_modules()
        layers = {name.rsplit(".", 1)[-1] for name, m in modules if isinstance(m, nn.Linear)}
        if missing := sorted(set(config.targets) - layers):
            raise TrainerError(
                f"lora.targets: found {missing[0]!r}, expected some of {', '.join(sorted(layers))}"
            )
        adapters = PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT scales by alpha / r, whole or not
            lora_dropout=config.dropout,
            # Of the decoder alone: the vision tower stays as it is, whatever its layers are called
            target_modules=rf".*\.layers\.\d+\..*\.({'|'.join(config.targets)})",
        )
        inject_adapter_in_model(adapters, base)
