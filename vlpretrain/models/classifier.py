"""What a model fine-tuned for classes of pictures carries beside its towers: a linear head.

Shapes: B pictures, N image tokens, D width, C classes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.models.layers import init_weights
from vlpretrain.models.vision import VisionStates

Pool = Literal["tower", "patches"]
_NAMED_IN_ERROR = 5


@dataclass(frozen=True)
class ClassifierSpec:
    """What a classifier is made of, in plain values; kept in classifier.json."""

    classes: tuple[str, ...] = ()
    pool: Pool = "tower"
    # A linear probe reads a tower that was not trained for it: its features are normalised.
    probe: bool = False
    dropout: float = 0.0


class ScoredClass(NamedTuple):
    """A class, and how likely the model takes it to be the picture's, 0 to 1."""

    name: str
    score: float


class Classifier(nn.Module):
    """Pooled image states to logits over classes.

    A probe's features are normalised to mean 0 and deviation 1 over their width, without learnt
    weights, so that one learning rate fits any tower. (He et al. 2022 take a batch norm without
    learnt weights there, whose running statistics would make the result depend on how a batch is
    divided over ranks.)
    """

    def __init__(self, spec: ClassifierSpec, width: int) -> None:
        """`width` is the image tower's.

        Raises:
            UserError: fewer than two classes, or a class twice.
        """
        super().__init__()
        _check(spec.classes)
        self.spec = spec
        self.dropout = nn.Dropout(spec.dropout)
        self.head = FloatLinear(width, len(spec.classes))
        self.head.apply(init_weights)

    def forward(self, states: VisionStates) -> Tensor:
        """Logits [B, C], float32."""
        feature_BD = pool_states(states, self.spec.pool).float()
        if self.spec.probe:
            feature_BD = F.layer_norm(feature_BD, feature_BD.shape[1:])
        return self.head(self.dropout(feature_BD))


class FloatLinear(nn.Linear):
    """Computes in float32 whatever the precision of its weights: in bf16 the best of many logits
    are often equal."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float(), self.bias.float())


def pool_states(states: VisionStates, pool: Pool) -> Tensor:
    """[B, D]: the tower's own pooling, or the mean of the patches."""
    if pool == "tower":
        return states.pooled_BD
    return states.token_BND[:, states.num_prefix :].mean(dim=1)


def best_classes(logit_BC: Tensor, classes: tuple[str, ...], top: int) -> list[list[ScoredClass]]:
    """The `top` likeliest classes of each picture, the best first."""
    best = logit_BC.softmax(dim=1).topk(min(top, len(classes)), dim=1)
    return [
        [ScoredClass(classes[place], score) for place, score in zip(places, scores, strict=True)]
        for places, scores in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _check(classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise UserError(
            f"{len(classes)} classes ({', '.join(classes) or 'none'}): nothing to tell apart",
            where="task.classification.classes",
            fix="at least two classes",
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(
            f"named twice: {', '.join(twice[:_NAMED_IN_ERROR])}",
            where="task.classification.classes",
            fix="each name once",
        )
