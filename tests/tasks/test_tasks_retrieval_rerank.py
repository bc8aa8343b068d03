"""The fusion's scores: those of every pair alone, however the work is cut."""

import pytest
import torch
from tiny_retrieval import holder, one_by_one, tiny_model, tiny_set

from vlpretrain.errors import UserError
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks import rerank, retrieval_encode
from vlpretrain.tasks.retrieval_search import Found, search_both_ways
from vlpretrain.tasks.retrieval_set import RetrievalSet

CAPTIONS = [1, 3, 0, 2, 5, 1, 1, 4] * 5


def candidates_of(found: Found) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Pictures, texts and scores [Q, K] of both directions."""
    by_image, by_text = found.image_to_text, found.text_to_image
    return [
        (by_image.query_row_Q[:, None], by_image.ranking.candidate_QK, by_image.match_QK),
        (by_text.ranking.candidate_QK, by_text.query_row_Q[:, None], by_text.match_QK),
    ]


@pytest.fixture(scope="module")
def data() -> RetrievalSet:
    return tiny_set(CAPTIONS)


@pytest.mark.parametrize("kind", ["cross", "merged", "concat"])
def test_scores_are_those_of_each_pair_alone(data: RetrievalSet, kind: str) -> None:
    model = tiny_model(kind)
    similarity_IT, match_IT = one_by_one(model, data)
    found = search_both_ways(model, data, (9,))
    assert match_IT.std() > 0.1
    for image, text, match_QK in candidates_of(found):
        torch.testing.assert_close(match_QK, match_IT[image, text], rtol=0, atol=1e-5)
    ranking = found.text_to_image.ranking
    expected = similarity_IT.T.gather(1, ranking.candidate_QK)
    torch.testing.assert_close(ranking.similarity_QK, expected, rtol=0, atol=1e-5)


def test_every_way_of_cutting_the_calls_gives_these_scores(
    data: RetrievalSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model()
    whole = search_both_ways(model, data, (9,))
    monkeypatch.setattr(rerank, "PAIRS", 7)
    parts = search_both_ways(model, data, (9,), picture_memory=1)
    for one, other in zip(candidates_of(whole), candidates_of(parts), strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
        torch.testing.assert_close(one[2], other[2], rtol=0, atol=1e-5)


def test_a_pair_is_judged_once_and_a_text_read_once(data: RetrievalSet) -> None:
    model, count = tiny_model(), {"pairs": 0, "texts": 0, "pictures": 0}

    def add(name: str, number: int) -> None:
        count[name] += number

    model.itm_head.register_forward_hook(lambda _, __, out: add("pairs", len(out)))
    model.text.register_forward_hook(lambda _, given, __: add("texts", len(given[0])))
    model.vision.register_forward_hook(lambda _, given, __: add("pictures", len(given[0])))
    found = search_both_ways(model, data, (9,))
    wanted = {
        (int(i), int(t))
        for image, text, _ in candidates_of(found)
        for i, t in zip(
            *(side.flatten() for side in torch.broadcast_tensors(image, text)), strict=True
        )
    }
    assert count == {
        "pairs": len(wanted),
        "texts": len(data.texts),
        "pictures": len(data.keys),
    }
    assert found.curve[-1].num_pairs == len(wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batch_size_and_memory_leave_every_bit(
    data: RetrievalSet, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_encode, "PICTURES", 4)
    monkeypatch.setattr(rerank, "PAIRS", 50)
    model = tiny_model().to(dtype)
    expected = bits(search_both_ways(model, data, (9,)))
    three_units = 3 * 4 * 5 * 16 * model.itm_head.weight.element_size()
    for batch_size, memory in ((1, 1), (3, three_units), (7, 1 << 30), (64, three_units)):
        found = bits(search_both_ways(model, data, (9,), batch_size, memory))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def bits(found: Found) -> list[torch.Tensor]:
    directions = (found.image_to_text, found.text_to_image)
    return [
        tensor
        for d in directions
        for tensor in (d.match_QK, d.ranking.similarity_QK, d.ranking.candidate_QK, d.ranks(9))
    ]


def test_what_is_not_finite_is_named(data: RetrievalSet) -> None:
    assert_named(tiny_model(), "itm_head", data, "matching scores of .* picture 'picture-0' with")
    assert_named(tiny_model(), "image_proj", data, "40 pictures are not finite.*'picture-0'")
    assert_named(tiny_model(), "text_proj", data, "texts are not finite, first those of '")


def assert_named(model: VLModel, part: str, data: RetrievalSet, message: str) -> None:
    with torch.no_grad():
        model.get_submodule(part).weight.fill_(torch.nan)
    with pytest.raises(UserError, match=message):
        search_both_ways(holder(model).model, data, (3,))
