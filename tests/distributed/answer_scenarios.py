"""Training open answers at ZeRO stages. Run by DeepSpeed's launcher, or in one process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

from engine_pretrain import PretrainLoader, pretraining_batch, tiny_pretraining
from engine_runs import config, run_toy

from vlpretrain.distributed import is_main, world_size
from vlpretrain.engine import Engine, join_processes
from vlpretrain.models.answer_decoder import AnswerTexts, answer_loss, answer_texts
from vlpretrain.models.answerer import Answerer, AnswererSpec, QuestionStates
from vlpretrain.types import Batch, GlobalEmbeddings, StepOutput

STAGES = (0, 3)
START, END, VOCAB, STEPS = 1, 2, 40, 6
LIST = ((1, 7, 2), (1, 25, 30, 2), (1, 9, 9, 2))


class AnswerTask(nn.Module):
    """Says what colour each of two pictures has, in two words."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_pretraining().model
        spec = AnswererSpec(
            "decode",
            2,
            ("a", "b", "c"),
            dropout=0.0,
            depth=2,
            heads=2,
            max_answer_tokens=5,
            start_id=START,
            end_id=END,
            pad_id=0,
            answer_tokens=LIST,
        )
        self.answerer = Answerer(spec, self.model.fusion.width, VOCAB)

    def needs_prepass(self, progress: float) -> bool:
        return False

    def forward(
        self, batch: Batch, others: GlobalEmbeddings | None = None, prepass: bool = False
    ) -> StepOutput:
        answers = answers_of(batch)
        logits_MV = self.answerer.logits(self.states(batch), answers)
        loss = answer_loss(logits_MV, answers, torch.ones(len(batch)))
        return StepOutput(loss / batch.mean_counts[2])

    def states(self, batch: Batch) -> QuestionStates:
        row_Q = torch.arange(len(batch))
        return self.answerer.states(
            self.model,
            self.model.vision(batch.pixels_BCHW).token_BND,
            self.model.text(batch.text_BT[:, :3], batch.text_valid_BT[:, :3]).token_BTD,
            batch.text_valid_BT[:, :3],
            torch.stack([row_Q, row_Q], dim=1),
        )


def answers_of(batch: Batch) -> AnswerTexts:
    """The text's fourth token, once or twice."""
    word_B = batch.text_BT[:, 3]
    twice_B = word_B % 2 == 0
    end_B = torch.full_like(word_B, END)
    second_B = torch.where(twice_B, word_B, end_B)
    text_BL = torch.stack([torch.full_like(word_B, START), word_B, second_B, end_B], dim=1)
    valid_BL = torch.ones_like(text_BL, dtype=torch.bool)
    valid_BL[:, 3] = twice_B
    return answer_texts(text_BL, valid_BL, torch.arange(len(batch)))


def every_stage(folder: Path) -> dict[str, Any]:
    """Losses, and what the trained model answers, by stage."""
    found = {}
    for stage in STAGES:
        said: list[Any] = []
        losses = run_toy(
            folder / f"stage{stage}",
            config(stage, micro_batch=8 // world_size()),
            STEPS,
            AnswerTask(),
            PretrainLoader(8 // world_size(), micro_steps=1),
            at_end=lambda engine, said=said: said.append(answers_after(engine)),
        ).losses
        found[f"stage{stage}"] = {"losses": losses, "said": said[0]}
    return found


@torch.no_grad()
def answers_after(engine: Engine) -> dict[str, Any]:
    """Every rank asks the same questions."""
    task: Any = engine.task.eval()
    batch = pretraining_batch(99, 4)
    states = task.states(batch)
    written = task.answerer.write(states, num_beams=2)
    return {
        "scores": task.answerer.answer_scores(states).tolist(),
        "texts": written.text_QKL.tolist(),
        "likelihoods": written.log_likelihood_QK.tolist(),
    }


def main(folder: Path) -> None:
    join_processes()
    found = every_stage(folder)
    if is_main():
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
