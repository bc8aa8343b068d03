"""The task of pretraining: one forward for all objectives that run at this point of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from vlpretrain.objectives.base import (
    Need,
    Objective,
    ObjectiveOutput,
    objective_weight,
)
from vlpretrain.objectives.features import (
    Features,
    TowerStates,
    embed,
    fuse,
    gather_embeddings,
    plan_passes,
    run_towers,
)
from vlpretrain.objectives.itc import Temperature
from vlpretrain.types import Batch, Embeddings, GlobalEmbeddings, StepOutput

if TYPE_CHECKING:
    from vlpretrain.models.vlmodel import VLModel


@dataclass(frozen=True, slots=True)
class Schedule:
    """An objective's weight over the run; see `objective_weight`."""

    weight: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    ramp: float = 0.0

    def weight_at(self, progress: float) -> float:
        return objective_weight(self.weight, self.start, self.stop, self.ramp, progress)


@dataclass(frozen=True, slots=True)
class EvaluationOutput:
    """What the evaluator reads of one batch; nothing in it has been seen by another rank."""

    outputs: dict[str, ObjectiveOutput]  # by objective; metrics are the batch's own means
    embeddings: Embeddings | None


class PretrainTask(nn.Module):
    """Model, objectives and their schedules as types.TrainTask.

    Args:
        objectives: by name, as in `table.OBJECTIVES`.
        schedules: by the same names.
        temperature: of the contrastive logits at the start.
        share_image_pass: objectives read MIM's masked pass; off: a pass of their own.
        num_visible: mask blocks of a picture that MIM's pass reads alone, equally many of every
            picture; 0: it also reads a token for each hidden patch.
    """

    def __init__(
        self,
        model: VLModel,
        objectives: Mapping[str, Objective],
        schedules: Mapping[str, Schedule],
        *,
        temperature: float = 0.07,
        share_image_pass: bool = True,
        num_visible: int = 0,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.schedules = dict(schedules)
        self.temperature = Temperature(temperature)
        self.share_image_pass = share_image_pass
        self.num_visible = num_visible

    def needs_prepass(self, progress: float) -> bool:
        return "itc" in self._weights(progress)

    def forward(
        self,
        batch: Batch,
        others: GlobalEmbeddings | None = None,
        prepass: bool = False,
        evaluate: bool = False,
    ) -> StepOutput | EvaluationOutput:
        """One micro-batch.

        Args:
            others: the global batch's embeddings; None: those of this micro-step, gathered here.
            prepass: only the embeddings, by the passes and the randomness of the full forward.
            evaluate: EvaluationOutput of every objective, whatever its schedule; the picture is
                whole but for MIM. It goes through forward so that ZeRO-3 gathers parameters.
        """
        if evaluate:
            return self._evaluate(batch)
        weights = self._weights(batch.progress)
        states = self._towers(batch, frozenset(weights), prepass=prepass)
        if prepass:
            own = embed(self.model, batch, states)
            return StepOutput(own.image_BE.new_zeros(()), embeddings=own)
        features = self._features(batch, states, frozenset(weights), others)
        outputs = self._run(features, batch, list(weights))
        loss = torch.stack([weights[name] * outputs[name].loss for name in weights]).sum()
        metrics = {key: value for out in outputs.values() for key, value in out.metrics.items()}
        return StepOutput(loss, metrics)

    def _evaluate(self, batch: Batch) -> EvaluationOutput:
        names = frozenset(self.objectives)
        states = self._towers(batch, names, share_image_pass=False)
        features = self._features(batch, states, names, evaluating=True)
        outputs = self._run(features, batch, list(self.objectives))
        return EvaluationOutput(outputs, features.embeddings)

    def _weights(self, progress: float) -> dict[str, float]:
        """The objectives that run now, in a fixed order."""
        weights = {name: self.schedules[name].weight_at(progress) for name in self.objectives}
        return {name: weight for name, weight in weights.items() if weight != 0}

    def _needs(self, names: frozenset[str]) -> frozenset[Need]:
        return frozenset().union(*(self.objective(name).needs for name in names))

    def objective(self, name: str) -> Objective:
        objective = self.objectives[name]
        assert isinstance(objective, Objective)
        return objective

    def _towers(
        self,
        batch: Batch,
        names: frozenset[str],
        *,
        prepass: bool = False,
        share_image_pass: bool | None = None,
    ) -> TowerStates:
        shared = self.share_image_pass if share_image_pass is None else share_image_pass
        needs = self._needs(names)
        plan = plan_passes(needs, shared=shared, num_visible=self.num_visible)
        return run_towers(self.model, batch, plan, prepass=prepass)

    def _features(
        self,
        batch: Batch,
        states: TowerStates,
        names: frozenset[str],
        others: GlobalEmbeddings | None = None,
        *,
        evaluating: bool = False,
    ) -> Features:
        embeddings, everyone = None, others
        if Need.EMBEDDINGS in self._needs(names):
            embeddings = embed(self.model, batch, states)
            everyone = others or gather_embeddings(embeddings, alone=evaluating)
        return Features(
            model=self.model,
            scale=self.temperature(),
            image=states.image,
            hidden_image=states.hidden_image,
            text=states.text,
            masked_text=states.masked_text,
            embeddings=embeddings,
            everyone=everyone,
            evaluating=evaluating,
        )

    def _run(
        self, features: Features, batch: Batch, names: list[str]
    ) -> dict[str, ObjectiveOutput]:
        """Every objective once, after one fusion call for all of them."""
        wanted = {name: self.objective(name).request(features, batch) for name in names}
        requests = {name: request for name, request in wanted.items() if request is not None}
        fused: dict[str, Tensor] = {}
        if requests:
            assert features.image is not None
            states = fuse(self.model, features.image, list(requests.values()))
            fused = dict(zip(requests, states, strict=True))
        return {
            name: self.objectives[name](features, batch, wanted[name], fused.get(name))
            for name in names
        }
