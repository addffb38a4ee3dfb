"""The turns of a chat as a model's own template writes them, and the words of NetGPT's instruction.

Source of the wording: NetGPT paper, sections 4.2 and 4.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from netgpt.trainers.errors import TrainerError

SYSTEM = "You are a helpful assistant."
GRAPH = "Graph: "
REQUEST = (
    "Please read the following json format information about the short-video and predict the final "
    "propagation influence level (levels 0~9) of the short video: "
)
RESPONSE = "The influence level of this short-video is "
NUM_LEVELS = 10
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The template of a model that the project makes itself: the turns of Qwen2-VL."""
_USER, _ASSISTANT = "NETGPT-USER-WORDS", "NETGPT-ASSISTANT-WORDS"
_DATE = "26 Jul 2024"
"""For templates that would write today's date: the same prompt on every day."""


@dataclass(frozen=True)
class ChatTurns:
    """What surrounds the user's and the assistant's words, markers of the template included."""

    before: str
    between: str
    after: str

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerBase) -> ChatTurns:
        """The tokenizer's template around one user turn. TrainerError where there is none that fits."""
        user = {"role": "user", "content": _USER}
        turns = [{"role": "system", "content": SYSTEM}, user]
        try:
            try:
                asked = _render(tokenizer, turns, True)
            except TemplateError:  # some know no system turn
                turns = [{"role": "user", "content": f"{SYSTEM}\n\n{_USER}"}]
                asked = _render(tokenizer, turns, True)
            whole = _render(tokenizer, [*turns, {"role": "assistant", "content": _ASSISTANT}], False)
            before, between = asked.split(_USER)
            _, after = whole.split(_ASSISTANT)
        except (TemplateError, ValueError) as error:
            reason = " ".join(str(error).split())[:120]
            raise TrainerError(
                f"language.model: found a tokenizer without a usable chat template ({reason}), "
                "expected that of an instruction-tuned model"
            ) from error
        return ChatTurns(before, between, after.rstrip())


def _render(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], asks: bool) -> str:
    return str(
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=asks, date_string=_DATE)
    )


def instruction_texts() -> tuple[str, ...]:
    """What every sample says besides its record: a self-trained tokenizer has to know it."""
    turns = ("<|im_start|>system\n", SYSTEM, "<|im_end|>\n<|im_start|>user\n", "<|im_start|>assistant\n")
    levels = (RESPONSE + str(level) for level in range(NUM_LEVELS))
    return (*turns, GRAPH, ". " + REQUEST, *levels)
