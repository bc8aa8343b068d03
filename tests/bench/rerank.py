"""Times the re-ranking of a retrieval evaluation beside doing it pair by pair. Prints Markdown.

    python -m tests.bench.rerank --precision bf16
    python -m tests.bench.rerank --pictures 100 --k 32 --sample 5

Pictures and captions are random, weights too; the candidates are those of drawn embeddings in
which a caption stands near its picture. The towers' states are given to both; what is timed is from
there to the scores of every query's k candidates, both ways. Ours is timed whole; pair by pair on a
sample of the queries, reckoned up to all. A pair that both ways ask for it scores twice. Times are
the process's, of all threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from tests.bench.rerank_plain import PairByPair
from tests.bench.step_batch import CLS, LENGTH_DEVIATION, LENGTH_MEAN, LENGTH_RANGE, PAD, SEP
from vlpretrain.models.factory import create_model
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.ranking import rank_candidates
from vlpretrain.tasks.rerank import PairList, match_scores
from vlpretrain.tasks.retrieval_encode import (
    PictureTokens,
    TextTable,
    encode_pictures,
    encode_texts,
)
from vlpretrain.tasks.retrieval_set import RetrievalSet

PATCH, HEAD_WIDTH, VOCABULARY = 16, 64, 30522
# How much of a drawn caption's embedding is its picture's.
NEARNESS = 0.3


@dataclass(frozen=True)
class Options:
    """What is timed."""

    precision: Literal["bf16", "fp32"] = "fp32"
    """Of weights and computation, for both."""
    pictures: int = 1000
    captions: int = 5
    """Of each picture."""
    k: int = 128
    """Candidates of each query that are re-ranked."""
    image_size: int = 224
    width: int = 192
    """Of towers and fusion."""
    depth: int = 6
    """Layers of the fusion; of the towers 2, as they are not timed."""
    max_tokens: int = 30
    """Captions are padded to this pair by pair, as ALBEF does; they have 13 on average."""
    sample: int = 8
    """Queries of each direction that are timed pair by pair; 0: all."""
    trimmed: bool = False
    """Also pair by pair with captions padded to the longest of a query's only."""
    threads: int = 1
    """Of torch."""


class Problem(NamedTuple):
    """What both contestants are given."""

    model: VLModel
    pictures: PictureTokens
    texts: TextTable
    text_of_IK: Tensor  # candidates of each picture
    image_of_TK: Tensor  # candidates of each text


class Timed(NamedTuple):
    """Scores [queries, k] and what they took."""

    score_QK: Tensor
    seconds: float


def main() -> None:
    options = tyro.cli(Options)
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    with torch.no_grad():
        problem = draw(options)
        pairs = all_pairs(problem)
        score_P, seconds = timed(
            lambda: match_scores(problem.model, problem.pictures, problem.texts, pairs)
        )
        print(f"torch {torch.__version__}, CPU, {options.threads} thread(s), {options}\n")
        lines = [Line("ours", seconds, 0.0, len(pairs))]
        asked = problem.text_of_IK.numel() + problem.image_of_TK.numel()
        for title, trims in (("pair by pair, as ALBEF", False), ("the same, trimmed", True)):
            if trims and not options.trimmed:
                continue
            lines.append(pair_by_pair(title, problem, options, trims, (pairs, score_P)))
    print(table(lines, asked))


def draw(options: Options) -> Problem:
    """Random pictures and captions through random towers, and every query's candidates."""
    torch.manual_seed(0)
    model = create_model(spec_of(options)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # the small weights of a start tell no pair from another
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    if options.precision == "bf16":
        model.to(torch.bfloat16)
    data = draw_set(options)
    pictures = encode_pictures(model, data, batch_size=64, memory=1 << 34)
    image_IE = F.normalize(torch.randn(options.pictures, 64), dim=-1)
    noise_TE = F.normalize(torch.randn(len(data.texts), 64), dim=-1)
    text_TE = F.normalize(NEARNESS * image_IE[list(data.image_of_text)] + noise_TE, dim=-1)
    by_image = rank_candidates(image_IE, text_TE, data.texts_of, options.k)
    by_text = rank_candidates(text_TE, image_IE, data.images_of, options.k)
    texts = encode_texts(model, data).table
    return Problem(model, pictures.tokens, texts, by_image.candidate_QK, by_text.candidate_QK)


def spec_of(options: Options) -> ModelSpec:
    width, heads = options.width, options.width // HEAD_WIDTH
    size = {"width": width, "heads": heads}
    vision = VisionSpec(
        "vit_tiny_patch16_224", options.image_size, options.image_size, depth=2, patch=PATCH, **size
    )
    text = TextSpec(vocab_size=VOCABULARY, max_tokens=options.max_tokens, depth=2, **size)
    return ModelSpec(vision, text, FusionSpec("cross", depth=options.depth, **size))


def draw_set(options: Options) -> RetrievalSet:
    side, count = options.image_size, options.pictures * options.captions
    length_T = LENGTH_MEAN + LENGTH_DEVIATION * torch.randn(count)
    lengths = length_T.round().clamp(*LENGTH_RANGE).long().tolist()
    words = [torch.randint(1000, VOCABULARY, (length - 2,)).tolist() for length in lengths]
    return RetrievalSet(
        keys=tuple(map(str, range(options.pictures))),
        texts=tuple(map(str, range(count))),
        text_ids=tuple((CLS, *ids, SEP) for ids in words),
        image_of_text=tuple(text // options.captions for text in range(count)),
        pad_id=PAD,
        load_pixels=lambda rows: torch.randint(0, 256, (len(rows), 3, side, side)).byte(),
    )


def all_pairs(problem: Problem) -> PairList:
    text_of_IK, image_of_TK = problem.text_of_IK, problem.image_of_TK
    image_IK = torch.arange(len(text_of_IK))[:, None].expand_as(text_of_IK)
    text_TK = torch.arange(len(image_of_TK))[:, None].expand_as(image_of_TK)
    return PairList.of(
        torch.cat([image_IK.flatten(), image_of_TK.flatten()]),
        torch.cat([text_of_IK.flatten(), text_TK.flatten()]),
        len(image_of_TK),
    )


class Line(NamedTuple):
    """A contestant: seconds for the whole task, and the largest difference of a score from ours."""

    title: str
    seconds: float
    difference: float
    num_scored: int


def pair_by_pair(
    title: str,
    problem: Problem,
    options: Options,
    trims: bool,
    ours: tuple[PairList, Tensor],
) -> Line:
    """Every query by a call of its own over its k pairs, images' projections included."""
    plain = PairByPair(problem.model, 0 if trims else options.max_tokens)
    token_IND = torch.cat(next(problem.pictures.stages())[1])
    pairs, score_P = ours
    seconds, difference = 0.0, 0.0
    for candidate_QK, asks_by_picture in ((problem.text_of_IK, True), (problem.image_of_TK, False)):
        chosen = spread(len(candidate_QK), options.sample)
        direction_seconds = 0.0
        for query in chosen:
            one = torch.full((candidate_QK.shape[1],), query)
            image, text = (
                (one, candidate_QK[query]) if asks_by_picture else (candidate_QK[query], one)
            )
            score_K, taken = timed(lambda: plain.scores(token_IND, problem.texts, image, text))  # noqa: B023
            direction_seconds += taken
            apart = (score_K - score_P[pairs.find(image, text)]).abs().max()
            difference = max(difference, float(apart))
        seconds += direction_seconds * len(candidate_QK) / len(chosen)
    asked = problem.text_of_IK.numel() + problem.image_of_TK.numel()
    return Line(title, seconds, difference, asked)


def spread(total: int, count: int) -> list[int]:
    """`count` of the numbers below `total`, evenly spaced; 0: all."""
    count = min(count or total, total)
    return [place * total // count for place in range(count)]


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.process_time()
    return work(), time.process_time() - start


def table(lines: list[Line], asked: int) -> str:
    """Pairs/s count each pair that a query asks for, whether or not it is scored twice."""
    rows = ["| re-ranking | s in all | pairs asked for/s | times | scored | largest difference |"]
    rows.append("|---|---|---|---|---|---|")
    slowest = max(line.seconds for line in lines)
    for line in lines:
        rows.append(
            f"| {line.title} | {line.seconds:,.1f} | {asked / line.seconds:,.0f} "
            f"| {slowest / line.seconds:.2f} | {line.num_scored:,} | {line.difference:.1e} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
