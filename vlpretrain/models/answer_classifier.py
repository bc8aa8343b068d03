"""Answers as classes: fused first-token states to logits over an answer vocabulary.

Shapes: Q questions, P pictures a question, A answers, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from vlpretrain.models.layers import init_weights


class AnswerClassifier(nn.Module):
    """Two linear layers with LayerNorm and GELU between, 2 * D wide inside (Dou et al. 2022).

    A question about several pictures was read with each of them; the states stand side by side in
    the pictures' order (Chen et al. 2020, NLVR2).
    """

    def __init__(self, width: int, num_pictures: int, num_answers: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(num_pictures * width, 2 * width)
        self.norm = nn.LayerNorm(2 * width)
        self.activation = nn.GELU()
        self.dropout = nn.Dropout(dropout)
        self.outer = nn.Linear(2 * width, num_answers)
        self.apply(init_weights)

    def forward(self, state_QPD: Tensor) -> Tensor:
        """Logits [Q, A]."""
        inner_QE = self.activation(self.norm(self.inner(state_QPD.flatten(1))))
        return self.outer(self.dropout(inner_QE))
