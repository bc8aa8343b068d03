"""Retrieval over two processes: the same bits as in one, and as many calls on either."""

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tasks"))

from tiny_retrieval import holder, tiny_model, tiny_set

from vlpretrain.distributed import all_gather_rows
from vlpretrain.tasks import ranking, rerank, retrieval_encode
from vlpretrain.tasks.retrieval_evaluator import RetrievalEvaluator
from vlpretrain.tasks.retrieval_search import search_both_ways

RANKS = 2
# Three units of pictures for two ranks, of unlike numbers of pairs; then a rank without any.
SETS = ([1, 3, 0, 2, 5, 1, 1, 4, 1, 1], [2, 1, 3])
DTYPES = (torch.float32, torch.bfloat16)


def check_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    retrieval_encode.PICTURES, retrieval_encode.TEXTS = 4, 5
    rerank.PAIRS, ranking.QUERIES = 11, 3
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=RANKS)
    together = everything(Path(folder) / "two")
    dist.destroy_process_group()
    alone = everything(Path(folder) / f"one-{rank}")
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert torch.equal(value, alone[name]), name


def everything(folder: Path) -> dict[str, Tensor]:
    """Figures, scores and embeddings of each set and precision; pictures' tokens kept, and not."""
    found: dict[str, Tensor] = {}
    for number, captions in enumerate(SETS):
        for dtype in DTYPES:
            for memory in (1, 1 << 30):
                model, data = tiny_model().to(dtype), tiny_set(captions)
                calls = count_calls(model)
                name = f"{number} {dtype} {memory}"
                found |= {f"{name} {key}": value for key, value in search(model, data, memory)}
                everyone = all_gather_rows(torch.tensor([calls]))
                assert (everyone == everyone[0]).all(), everyone
        figures = RetrievalEvaluator(tiny_set(captions), ks=(3,))(holder(tiny_model()), folder)
        found[f"figures {number}"] = torch.tensor(list(figures.values()), dtype=torch.float64)
    return found


def search(model, data, memory: int) -> list[tuple[str, Tensor]]:
    found = search_both_ways(model, data, (2, 5), batch_size=7, picture_memory=memory)
    pictures = retrieval_encode.encode_pictures(model, data, 1, 0).embedding_IE
    texts = retrieval_encode.encode_texts(model, data)
    rows = [("pictures", pictures), ("texts", texts.embedding_TE), ("words", texts.table.row_SD)]
    for way, direction in found.directions.items():
        rows += [
            (f"{way} match", direction.match_QK),
            (f"{way} similarity", direction.ranking.similarity_QK),
            (f"{way} candidates", direction.ranking.candidate_QK),
            (f"{way} ranks", direction.ranks(5)),
        ]
    return rows


def count_calls(model: nn.Module) -> list[int]:
    """How often each part is called, counted from now on."""
    parts = (model.vision, model.text, model.fusion, model.itm_head, model.image_proj)
    calls = [0] * len(parts)

    def hook(place: int):
        def count(*_: object) -> None:
            calls[place] += 1

        return count

    for place, part in enumerate(parts):
        part.register_forward_hook(hook(place))
    return calls


@pytest.mark.distributed
def test_two_ranks_find_the_same_to_the_bit(tmp_path: Path) -> None:
    mp.spawn(check_rank, args=(str(tmp_path),), nprocs=RANKS)
