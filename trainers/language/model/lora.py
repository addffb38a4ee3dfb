"""What is trained of a language model without graph token and head: low-rank adapters of PEFT, a prefix, or
its own layers."""

from __future__ import annotations

import torch
from peft import LoraConfig as PeftConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from netgpt.trainers.config import LoraConfig, TuneConfig
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
                f"{config.section}.targets: found {missing[0]!r}, expected some of "
                f"{', '.join(sorted(layers))}"
            )
        adapters = PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # PEFT scales by alpha / r, whole or not
            lora_dropout=config.dropout,
            # Of the decoder alone: the vision tower stays as it is, whatever its layers are called
            target_modules=rf".*\.layers\.\d+\..*\.({'|'.join(config.targets)})",
        )
        inject_adapter_in_model(adapters, base)


class PrefixLM(PackedLM):
    """A language model with trained keys and values before every sample's own, in each layer (Li and Liang,
    "Prefix-Tuning"; shapes as PEFT's). A sample's positions begin behind them."""

    def __init__(self, base: PreTrainedModel, length: int) -> None:
        super().__init__(base)
        config = self.text.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, 2, heads, length, width)
        self.prefix = nn.Parameter(0.02 * torch.randn(shape))

    @property
    def prefix_keys(self) -> Tensor:
        return self.prefix

    @property
    def num_prefix(self) -> int:
        return int(self.prefix.shape[3])

    def new_cache(self, num: int) -> DynamicCache:
        cache = DynamicCache()
        for i, (key, value) in enumerate(self.prefix.to(next(self.text.parameters()).dtype)):
            cache.update(*(x[None].expand(num, -1, -1, -1).contiguous() for x in (key, value)), i)
        return cache

    def _part(self, name: str) -> dict[str, nn.Parameter]:
        """Also prefix."""
        return {"prefix": self.prefix} if name == "prefix" else super()._part(name)


def merged(model: PackedLM) -> PreTrainedModel:
    """The plain model that says the same: adapters are added to the weights that they adapt, for good.
    TrainerError for a prefix, which no plain model has."""
    if isinstance(model, PrefixLM):
        raise TrainerError(
            "tune.method: found prefix, expected lora, freeze or full: a plain model has no prefix"
        )
    base: PreTrainedModel = model.base
    for name, module in list(base.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()
            holder, _, last = name.rpartition(".")
            setattr(base.get_submodule(holder), last, module.get_base_layer())
    return base


def tuned_model(base: PreTrainedModel, config: LoraConfig) -> PackedLM:
    """The model of a method (adapters where the settings know no other) with fresh trainable parts."""
    if not isinstance(config, TuneConfig) or config.method == "lora":
        return LoraLM(base, config)
    return PrefixLM(base, config.prefix) if config.method == "prefix" else PackedLM(base)


def tuned_parts(config: TuneConfig) -> tuple[str, ...]:
    """What a method trains, as `PackedLM.parts` names it."""
    named = {"lora": "adapters", "freeze": f"last:{config.layers}", "full": "decoder", "prefix": "prefix"}
    return (named[config.method],)
