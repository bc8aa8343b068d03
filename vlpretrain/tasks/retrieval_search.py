"""Searching pictures by texts and texts by pictures, all of a set.

Shapes: I pictures, T texts, Q queries, K candidates that are kept, P pairs, E embedding width.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.ranking import Ranking, rank_candidates, reranked_rank
from vlpretrain.tasks.rerank import PairList, check_scores, match_scores
from vlpretrain.tasks.retrieval_encode import encode_pictures, encode_texts
from vlpretrain.tasks.retrieval_set import RetrievalSet

# Candidates of each query that a report shows.
SHOWN = 5
# Bytes of picture tokens that a rank holds at a time, see PictureTokens.
PICTURE_MEMORY = 4 << 30


@dataclass(frozen=True, slots=True)
class Answer:
    """A candidate as it is shown."""

    row: int  # of the texts, or of the pictures
    score: float  # the head's probability of a match; without re-ranking the cosine
    right: bool


@dataclass(frozen=True, slots=True)
class Direction:
    """One way of searching; a query stands in the same place everywhere."""

    ranking: Ranking
    match_QK: Tensor  # float32 log-odds of the largest k candidates; [Q, 0] without re-ranking
    score_QK: Tensor  # float32, what re-ranking orders the same candidates by
    query_row_Q: Tensor  # rows of the pictures, or of the texts, that ask
    cluster_Q: Tensor  # the picture that a query belongs to
    relevant: Sequence[Sequence[int]]  # rows of each query's relevant candidates
    num_candidates: int

    def ranks(self, k: int) -> Tensor:
        """int64 [Q], of the best relevant candidate, from 1; k = 0: by the dual encoder."""
        return reranked_rank(self.ranking, self.score_QK, k)

    def answers(self, query: int, count: int) -> list[Answer]:
        """A query's first answers, in the order that `ranks` counts by."""
        match_K = self.match_QK[query].double()
        similarity_K = self.ranking.similarity_QK[query]
        shown_K = match_K.sigmoid() if len(match_K) else similarity_K
        order = self.score_QK[query] if len(match_K) else similarity_K
        right_K = self.ranking.right_QK[query]
        rows = self.ranking.candidate_QK[query]
        places = sorted(
            range(len(order)), key=lambda place: (-float(order[place]), bool(right_K[place]))
        )
        return [
            Answer(int(rows[place]), float(shown_K[place]), bool(right_K[place]))
            for place in places[:count]
        ]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What re-ranking the first k takes."""

    k: int
    num_pairs: int  # distinct pairs that the fusion judges
    seconds: float  # of the whole evaluation; re-ranking's share by the number of pairs


@dataclass(frozen=True, slots=True)
class Found:
    """Both ways of searching, and the price."""

    image_to_text: Direction
    text_to_image: Direction
    curve: tuple[CurvePoint, ...]  # k = 0 first
    contrast: float  # the cosine's factor in the score that re-ranked candidates are ordered by

    @property
    def order_rule(self) -> str:
        """What re-ranked candidates are ordered by, for people; "" without re-ranking."""
        if not self.largest_k:
            return ""
        added = f" + {self.contrast:.3g} x cosine" if self.contrast else ""
        return f"log-odds of the matching head{added}"

    @property
    def directions(self) -> dict[str, Direction]:
        """By the names that figures and files have."""
        return {"image_to_text": self.image_to_text, "text_to_image": self.text_to_image}

    @property
    def largest_k(self) -> int:
        return self.curve[-1].k


@torch.no_grad()
def search_both_ways(
    model: VLModel,
    data: RetrievalSet,
    ks: Sequence[int],
    batch_size: int = 64,
    picture_memory: int = PICTURE_MEMORY,
    contrast: float = 0.0,
) -> Found:
    """The ranks of all queries, by the dual encoder and with the first k re-ranked.

    The model must be in evaluation mode. All ranks call, and all get the same.

    Args:
        ks: positive and ascending; empty: the dual encoder alone.
        batch_size: pictures that are loaded at once.
        contrast: factor of the cosine that is added to the matching head's log-odds.

    Raises:
        UserError: an embedding or a matching score that is not finite.
    """
    began = time.perf_counter()
    largest = max([0, *ks])
    pictures = encode_pictures(model, data, batch_size, picture_memory if ks else 0)
    texts = encode_texts(model, data)
    rankings = _rank_both_ways(pictures.embedding_IE, texts.embedding_TE, data, largest)
    ranked = time.perf_counter() - began
    pairs = _pairs(rankings, data, largest)
    score_P = match_scores(model, pictures.tokens, texts.table, pairs)
    check_scores(score_P, pairs, data)
    reranked = time.perf_counter() - began - ranked
    curve = [CurvePoint(0, 0, ranked)]
    for k in ks:
        num_pairs = len(_pairs(rankings, data, k))
        curve.append(CurvePoint(k, num_pairs, ranked + reranked * num_pairs / len(pairs)))
    directions = _directions(rankings, data, Judged(pairs, score_P, largest, contrast))
    return Found(*directions, tuple(curve), contrast)


@dataclass(frozen=True, slots=True)
class Judged:
    """The fusion's scores of the first k candidates both ways."""

    pairs: PairList
    match_P: Tensor
    k: int
    contrast: float

    def log_odds(self, image_QK: Tensor, text_QK: Tensor) -> Tensor:
        """[Q, k] of pairs whose candidates stand in order; one of the sides is [Q, 1]."""
        shape = torch.broadcast_shapes(image_QK.shape, text_QK.shape)
        image_Qk, text_Qk = (side.expand(shape)[:, : self.k] for side in (image_QK, text_QK))
        return self.match_P[self.pairs.find(image_Qk, text_Qk)]

    def scores(self, match_Qk: Tensor, ranking: Ranking) -> Tensor:
        """[Q, k]: log-odds and the cosine's share of the score."""
        return match_Qk + self.contrast * ranking.similarity_QK[:, : match_Qk.shape[1]]


def _rank_both_ways(
    embedding_IE: Tensor, embedding_TE: Tensor, data: RetrievalSet, keep: int
) -> tuple[Ranking, Ranking]:
    asking = torch.tensor(data.asking_images, device=embedding_IE.device)
    texts_of = [data.texts_of[image] for image in data.asking_images]
    keep = max(keep, SHOWN)
    return (
        rank_candidates(embedding_IE[asking], embedding_TE, texts_of, keep),
        rank_candidates(embedding_TE, embedding_IE, data.images_of, keep),
    )


def _pairs(rankings: tuple[Ranking, Ranking], data: RetrievalSet, k: int) -> PairList:
    """What the fusion must judge to re-rank the first k both ways."""
    by_image, by_text = (ranking.candidate_QK[:, :k] for ranking in rankings)
    asking = torch.tensor(data.asking_images)[:, None].expand_as(by_image)
    text = torch.arange(len(data.texts))[:, None].expand_as(by_text)
    return PairList.of(
        torch.cat([asking.flatten(), by_text.flatten()]),
        torch.cat([by_image.flatten(), text.flatten()]),
        len(data.texts),
    )


def _directions(
    rankings: tuple[Ranking, Ranking], data: RetrievalSet, judged: Judged
) -> tuple[Direction, Direction]:
    by_image, by_text = rankings
    asking_Q = torch.tensor(data.asking_images)
    text_Q = torch.arange(len(data.texts))
    match_of_image_QK = judged.log_odds(asking_Q[:, None], by_image.candidate_QK)
    match_of_text_QK = judged.log_odds(by_text.candidate_QK, text_Q[:, None])
    return (
        Direction(
            ranking=by_image,
            match_QK=match_of_image_QK,
            score_QK=judged.scores(match_of_image_QK, by_image),
            query_row_Q=asking_Q,
            cluster_Q=asking_Q,
            relevant=[data.texts_of[image] for image in data.asking_images],
            num_candidates=len(data.texts),
        ),
        Direction(
            ranking=by_text,
            match_QK=match_of_text_QK,
            score_QK=judged.scores(match_of_text_QK, by_text),
            query_row_Q=text_Q,
            cluster_Q=torch.tensor(data.image_of_text),
            relevant=data.images_of,
            num_candidates=len(data.keys),
        ),
    )
