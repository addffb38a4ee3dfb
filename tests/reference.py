"""The reference job's task, groups and ablations as dataclasses: what the trainers' tests run with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from netgpt.graphstore import Graph
from netgpt.graphstore.datasets.xsvideo.schema import TRAIN_UNTIL
from netgpt.trainers.config import AblationConfig, EvaluationConfig
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.names import BASELINES, STAGES
from netgpt.trainers.tasks.base import WordsConfig
from netgpt.trainers.tasks.rating import Rating, RatingConfig
from netgpt.trainers.tasks.split import SplitConfig

if TYPE_CHECKING:  # not all tests want tokenizers
    from netgpt.trainers.language.text.prompt import PromptBuilder
    from netgpt.trainers.language.text.template import Words

TASK = RatingConfig(
    label="label",
    levels=10,
    val_share=0.2,
    split=SplitConfig(column="time", until=TRAIN_UNTIL, utc_offset_h=8),
    words=WordsConfig(
        request="Please read the following json format information about the short-video and predict the "
        "final propagation influence level (levels 0~9) of the short video: ",
        response="The influence level of this short-video is ",
    ),
)
EVALUATION = EvaluationConfig(by=["platform"], period="age_days", apart="age_zero")
NUMBERS = ("fans", "likes", "comments", "shares", "views", "collects")
ABLATIONS = {
    "V": AblationConfig(features=["video"], pixels=True),
    "VV": AblationConfig(types=["video"]),
    "IV": AblationConfig(
        types=["ctime", *NUMBERS],
        fields=[
            *("当前时间", "当前粉丝量", "当前点赞量", "当前播放量", "当前分享量"),
            *("当前收藏量", "当前评论量"),
        ],
    ),
    "CV": AblationConfig(types=["comment"], fields=["评论"]),
}


def rating(**changes: Any) -> Rating:
    """The reference task, with some of its settings changed."""
    return Rating(replace(TASK, **changes))


def settings_of(**values: Any) -> Settings:
    """Settings of the reference job's stages, with some sections given."""
    kind = settings_type("rating", (*STAGES, *BASELINES))
    return kind(**{"task": TASK, "evaluation": EVALUATION, "ablations": ABLATIONS, **values})


def words_of(task: Rating | None = None) -> Words:
    from netgpt.trainers.language.text.template import Words

    return Words.of(task or rating())


def prompts_of(tokenizer: Any, graph: Graph, **limits: Any) -> PromptBuilder:
    """Prompts of a graph's documents, of 900 tokens and 5 comments at most where nothing else is said."""
    from netgpt.trainers.language.text.fields import document_of
    from netgpt.trainers.language.text.prompt import PromptBuilder

    options = {"max_tokens": 900, "max_comments": 5, "seed": 0, **limits}
    return PromptBuilder(tokenizer, document_of(graph), words_of(), **options)
