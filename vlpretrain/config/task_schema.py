"""The choices of each task, in the form of schema.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class VqaConfig:
    """Questions about pictures; sentences that are true or false of one picture or two are such
    questions too."""

    answer_with: Literal["classify", "decode"] = "classify"
    """classify: one of a vocabulary of training answers; decode: a small decoder that writes any
    answer, and can rank the vocabulary (Li et al. 2021)."""
    pictures: Literal[1, 2] = 1
    """Pictures that a question is about; 2: as in NLVR2."""
    top_answers: int = 3129
    """Answers of the vocabulary, the most frequent of the training set; 0: all of them. VQAv2's
    usual vocabulary has 3,129."""
    min_count: int = 1
    """Questions that an answer must answer best to be in the vocabulary."""
    min_coverage: float = 0.5
    """The run stops where the vocabulary answers a smaller share of the training questions."""
    loss: Literal["bce", "cross_entropy"] = "bce"
    """bce: each answer's score on its own, as is usual with ten human answers; cross_entropy: the
    answers' shares as one distribution, for questions with one answer."""
    per_picture: int = 0
    """Questions of a picture in a step, chosen anew each epoch; 0: all. The picture is encoded
    once for all of them."""
    dropout: float = 0.1
    """Dropout of the answer head."""
    decoder_depth: int = 2
    """Layers of the answer decoder."""
    max_answer_tokens: int = 12
    """Longer answers are cut here (decode)."""
    evaluate: Literal["write", "rank"] = "write"
    """decode: what is scored at an evaluation, the written answer or the likeliest of the
    vocabulary."""
    beams: int = 1
    """Beams of the written answer; 1: greedy."""
    rank_first: int = 128
    """Answers that the first word leaves in the ranking (Li et al. 2021)."""
    blind: bool = False
    """Blank pictures, in training and evaluation: what the questions alone give away."""


@dataclass(frozen=True)
class RetrievalConfig:
    """Retrieval of pictures by texts and of texts by pictures. It is trained by `objectives`
    (itc and itm), and every caption of a picture counts."""

    k: tuple[int, ...] = (16, 32, 64, 128)
    """Candidates that the fusion re-ranks for a query, one figure for each; empty: embeddings
    alone. All are read off one scoring of the most."""
    order: Literal["both", "match"] = "both"
    """What re-ranked candidates are ordered by. both: the matching head's log-odds plus the
    contrastive logit, which belongs to it where negatives are drawn by it (itm.hard_from);
    match: the log-odds alone, as ALBEF does."""


@dataclass(frozen=True)
class ClassificationConfig:
    """Classes of pictures, the usual judge of masked-image pretraining."""

    mode: Literal["finetune", "linear_probe", "knn", "zero_shot"] = "finetune"
    """finetune: tower and head; linear_probe: a head on the frozen tower; knn: the nearest
    training pictures; zero_shot: the class name whose text is nearest. The last two train
    nothing, so they are for `evaluate`."""
    classes: tuple[str, ...] = ()
    """Names in order; empty: the labels of the training samples, sorted, for which each one's JSON
    is read when the run starts. Where the labels are numbers, these are the names in the order of
    the numbers."""
    pool: Literal["tower", "patches"] = "tower"
    """What is read of a picture: the tower's own pooling (a class token where it has one), or the
    mean of its patches: masked-image pretraining alone trains no class token."""
    smoothing: float = 0.0
    """Label smoothing."""
    drop: float = 0.0
    """Dropout before the head."""
    neighbours: int = 20
    """knn: neighbours that vote."""
    temperature: float = 0.07
    """knn: of the votes (Wu et al. 2018)."""
    templates: tuple[str, ...] = ("a photo of a {}.", "a picture of a {}.", "{}")
    """zero_shot: texts of a class, whose embeddings are averaged; {} is its name, with spaces for
    underscores."""


@dataclass(frozen=True)
class TaskConfig:
    """What is trained and judged."""

    name: Literal["pretrain", "vqa", "retrieval", "classification"] = "pretrain"
    """pretrain: the objectives; vqa: questions; retrieval: itc and itm, judged by recall over all
    captions; classification: labels."""
    vqa: VqaConfig = field(default_factory=VqaConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    classification: ClassificationConfig = field(default_factory=ClassificationConfig)
