"""The evaluator: figures that are worth their names, and files that show what they say."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_retrieval import holder, one_by_one, tiny_model, tiny_set
from torch import Tensor, nn

from vlpretrain.errors import UserError
from vlpretrain.metrics.retrieval import chance_recall, first_relevant_rank, recall_at_k
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.text import TextStates
from vlpretrain.models.vision import VisionStates
from vlpretrain.tasks.retrieval_evaluator import RetrievalEvaluator
from vlpretrain.tasks.retrieval_search import search_both_ways
from vlpretrain.tasks.retrieval_set import RetrievalSet

CAPTIONS = [1, 3, 0, 2, 5, 1, 1, 4] * 3
WAYS = ("image_to_text", "text_to_image")


def read(folder: Path) -> dict:
    return json.loads((folder / "retrieval.json").read_text())


def test_without_re_ranking_it_is_the_dual_encoder_and_with_all_the_matching_head() -> None:
    model, data = tiny_model(), tiny_set(CAPTIONS)
    similarity_IT, match_IT = one_by_one(model, data)
    everything = len(data.texts)
    found = search_both_ways(model, data, (everything,))
    asking = list(data.asking_images)
    texts_of = [data.texts_of[image] for image in asking]
    for k, score_IT in ((0, similarity_IT), (everything, match_IT)):
        by_image = first_relevant_rank(score_IT[asking], texts_of)
        assert torch.equal(found.image_to_text.ranks(k), by_image)
        assert torch.equal(
            found.text_to_image.ranks(k), first_relevant_rank(score_IT.T, data.images_of)
        )


def test_with_contrast_log_odds_and_contrastive_logits_are_added() -> None:
    model, data = tiny_model(), tiny_set(CAPTIONS)
    similarity_IT, match_IT = one_by_one(model, data)
    everything = len(data.texts)
    found = search_both_ways(model, data, (everything,), contrast=7.0)
    score_IT = match_IT + 7 * similarity_IT
    by_text = first_relevant_rank(score_IT.T, data.images_of)
    assert torch.equal(found.text_to_image.ranks(everything), by_text)
    assert not torch.equal(by_text, first_relevant_rank(match_IT.T, data.images_of))
    first = found.text_to_image.answers(0, 1)[0]
    assert first.row == int(score_IT[:, 0].argmax())
    assert first.score == pytest.approx(float(match_IT[first.row, 0].sigmoid()), abs=1e-5)


def test_the_task_says_how_much_the_contrast_counts(tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_set(CAPTIONS)
    everything = len(data.texts)
    summed = RetrievalEvaluator(data, ks=(everything,), with_contrast=True)
    alone = RetrievalEvaluator(data, ks=(everything,))
    weightless = summed(holder(model, scale=0.0), tmp_path)
    assert weightless == alone(holder(model), tmp_path)
    assert read(tmp_path)["order_rule"] == "log-odds of the matching head"
    heavy = summed(holder(model, scale=1e6), tmp_path)
    assert read(tmp_path)["order_rule"] == "log-odds of the matching head + 1e+06 x cosine"
    name = "val/text_to_image_{}recall@1"
    assert heavy[name.format("reranked_")] == heavy[name.format("")]


def test_the_figures_and_the_file_say_the_same(tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_set(CAPTIONS)
    similarity_IT, _ = one_by_one(model, data)
    overlap = {"checked": False}
    figures = RetrievalEvaluator(data, ks=(8, 3, 0, 3), overlap=lambda: overlap)(
        holder(model), tmp_path
    )
    expected = recall_at_k(similarity_IT.T, data.images_of, (1, 5, 10))
    listing = read(tmp_path)
    for k, value in expected.items():
        assert figures[f"val/text_to_image_recall@{k}"] == pytest.approx(value)
    for way in WAYS:
        for kind, prefix in (("dual", ""), ("reranked", "reranked_")):
            measured = listing["directions"][way][kind]
            for name in ("recall@1", "recall@5", "recall@10", "median_rank"):
                assert measured[name] == figures[f"val/{way}_{prefix}{name}"]
            low, high = measured["interval@1"]
            assert 0 <= low <= measured["recall@1"] <= high <= 1
        assert listing["directions"][way]["reranked"]["k"] == 8
        assert listing["chance"][way]["recall@5"] == figures[f"val/chance_{way}_recall@5"]
        assert listing["curve"][0][way] == listing["directions"][way]["dual"]["recall@1"]
        assert listing["curve"][-1][way] == listing["directions"][way]["reranked"]["recall@1"]
    assert [point["k"] for point in listing["curve"]] == [0, 3, 8]
    seconds = [point["seconds"] for point in listing["curve"]]
    assert seconds == sorted(seconds)
    assert (listing["num_images"], listing["num_texts"]) == (24, len(data.texts))
    assert listing["images_without_text"] == 3
    assert listing["overlap"] == overlap


def test_chance_is_that_of_a_random_order(tmp_path: Path) -> None:
    data = tiny_set(CAPTIONS)
    figures = RetrievalEvaluator(data, ks=())(holder(tiny_model()), tmp_path)
    relevant_QC = torch.zeros(len(data.asking_images), len(data.texts), dtype=torch.bool)
    for query, image in enumerate(data.asking_images):
        relevant_QC[query, list(data.texts_of[image])] = True
    for k, value in chance_recall(relevant_QC, (1, 5, 10)).items():
        assert figures[f"val/chance_image_to_text_recall@{k}"] == pytest.approx(value)
    assert not any("reranked" in name for name in figures)


def test_a_curve_costs_no_more_than_its_largest_k_and_equals_single_runs(tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_set(CAPTIONS)
    RetrievalEvaluator(data, ks=(2, 5, 8))(holder(model), tmp_path)
    curve = read(tmp_path)["curve"]
    for point in curve[1:]:
        RetrievalEvaluator(data, ks=(point["k"],))(holder(model), tmp_path)
        alone = read(tmp_path)["curve"][-1]
        assert [alone[name] for name in ("k", "pairs", *WAYS)] == [
            point[name] for name in ("k", "pairs", *WAYS)
        ]


def test_it_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny_model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluator = RetrievalEvaluator(tiny_set([2, 1]))
    assert evaluator(holder(model), tmp_path) == evaluator(holder(model), tmp_path)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_examples_show_the_pictures_and_texts_that_they_name(tmp_path: Path) -> None:
    data = tiny_set(CAPTIONS)
    RetrievalEvaluator(data, ks=(8,))(holder(tiny_model()), tmp_path)
    examples = read(tmp_path)["examples"]
    pixels_ICHW = data.load_pixels(range(len(data.keys)))

    def row_of(name: str) -> int:
        shown = np.asarray(Image.open(tmp_path / name))
        return next(
            row
            for row, own in enumerate(pixels_ICHW)
            if (own.permute(1, 2, 0).numpy() == shown).all()
        )

    for example in examples["image_to_text"]:
        own = {data.texts[text] for text in data.texts_of[row_of(example["image"])]}
        assert_answers(example, example["texts"])
        assert all(answer["right"] == (answer["text"] in own) for answer in example["texts"])
    for example in examples["text_to_image"]:
        own_rows = data.images_of[data.texts.index(example["text"])]
        assert_answers(example, example["images"])
        for answer in example["images"]:
            assert answer["right"] == (row_of(answer["image"]) in own_rows)


def assert_answers(example: dict, answers: list[dict]) -> None:
    scores = [answer["score"] for answer in answers]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    first_right = next((n for n, a in enumerate(answers, start=1) if a["right"]), None)
    assert first_right == example["rank"] if first_right else example["rank"] > 5


def test_a_negative_k_is_refused() -> None:
    with pytest.raises(UserError, match="-1 candidates"):
        RetrievalEvaluator(tiny_set([1]), ks=(4, -1))


# --- a model made by hand ------------------------------------------------------------------------


class HandMade(nn.Module):
    """Picture i is grey of level i, its caption is the token i. By embedding a caption's neighbour
    is nearest and its own picture second; the fusion knows better, or finds everything alike."""

    def __init__(self, size: int, wise: bool = True) -> None:
        super().__init__()
        self.size, self.wise = size, wise
        self.vision, self.text, self.fusion = Grey(self), Words(self), Judge(self)

    def image_embeddings(self, states: VisionStates) -> Tensor:
        return states.pooled_BD

    def text_embeddings(self, states: TextStates) -> Tensor:
        return states.pooled_BD

    def itm_logits(self, state_PD: Tensor) -> Tensor:
        return state_PD


class Part(nn.Module):
    def __init__(self, whole: HandMade) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.size, self.wise, self.image_size = whole.size, whole.wise, 4


class Grey(Part):
    def forward(self, pixels_BCHW: Tensor) -> VisionStates:
        number_B = pixels_BCHW[:, 0, 0, 0].long()
        return VisionStates(number_B.float()[:, None, None], torch.eye(self.size)[number_B], 0)


class Words(Part):
    def forward(self, text_BT: Tensor, valid_BT: Tensor) -> TextStates:
        number_B = text_BT[:, 0]
        neighbour_B = (number_B + 1) % self.size
        near_BE = 0.8 * torch.eye(self.size)[neighbour_B] + 0.6 * torch.eye(self.size)[number_B]
        return TextStates(text_BT.float()[:, :, None], near_BE)


class Judge(Part):
    def forward(
        self, image_RND: Tensor, text_RTD: Tensor, valid_RT: Tensor, pairs: FusionPairs
    ) -> Tensor:
        same_P = image_RND[pairs.image_row_P, 0, 0] == text_RTD[pairs.text_row_P, 0, 0]
        return torch.stack([torch.zeros(len(same_P)), same_P.float() * self.wise], dim=1)


def numbered_set(size: int) -> RetrievalSet:
    return RetrievalSet(
        keys=tuple(f"grey {number}" for number in range(size)),
        texts=tuple(f"number {number}" for number in range(size)),
        text_ids=tuple((number,) for number in range(size)),
        image_of_text=tuple(range(size)),
        pad_id=0,
        load_pixels=lambda rows: (
            torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        ),
    )


@pytest.mark.parametrize(("k", "recall"), [(0, 0.0), (1, 0.0), (2, 1.0), (30, 1.0)])
def test_re_ranking_puts_right_what_the_embeddings_got_wrong(
    tmp_path: Path, k: int, recall: float
) -> None:
    size = 30
    figures = RetrievalEvaluator(numbered_set(size), ks=(k,))(holder(HandMade(size)), tmp_path)
    kind = "reranked_" if k else ""
    for way in WAYS:
        assert figures[f"val/{way}_recall@1"] == 0
        assert figures[f"val/{way}_{kind}recall@1"] == recall
        assert figures[f"val/{way}_{kind}median_rank"] == (1 if recall else 2)
    examples = read(tmp_path)["examples"]["text_to_image"]
    assert [example["rank"] == 1 for example in examples] == [bool(recall)] * 3


def test_one_score_for_all_candidates_is_no_success(tmp_path: Path) -> None:
    size, k = 30, 8
    model = HandMade(size, wise=False)
    figures = RetrievalEvaluator(numbered_set(size), ks=(k,))(holder(model), tmp_path)
    for way in WAYS:
        assert figures[f"val/{way}_reranked_recall@5"] == 0
        assert figures[f"val/{way}_reranked_median_rank"] == k
