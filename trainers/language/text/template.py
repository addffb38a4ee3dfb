"""The turns of a chat as a model's own template writes them, and the words of an instruction.

Source of the instruction's form: NetGPT paper, sections 4.2 and 4.3; its words are the task's.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.base import Task

SYSTEM = "You are a helpful assistant."
GRAPH = "Graph: "
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


@dataclass(frozen=True)
class Words:
    """What a prompt asks, how a response begins, and how it may end."""

    request: str
    response: str
    choices: tuple[str, ...]
    longest: str = ""
    """An answer of no list that takes as many tokens as any; empty: there are none."""

    @staticmethod
    def of(task: Task) -> Words:
        longest = task.longest_written if task.writes else ""
        return Words(task.config.words.request, task.config.words.response, task.choices, longest)

    @property
    def responses(self) -> tuple[str, ...]:
        return tuple(self.response + choice for choice in self.choices)


def instruction_texts(words: Words) -> tuple[str, ...]:
    """What every sample says besides its record: a self-trained tokenizer has to know it."""
    turns = ("<|im_start|>system\n", SYSTEM, "<|im_end|>\n<|im_start|>user\n", "<|im_start|>assistant\n")
    digits = tuple("0123456789.-") if words.longest else ()
    return (*turns, GRAPH, ". " + words.request, *words.responses, *digits)
