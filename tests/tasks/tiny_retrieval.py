"""A model of a few thousand parameters, pictures and captions for it, for the tests beside."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from vlpretrain.models.factory import create_model
from vlpretrain.models.fusion import FusionPairs
from vlpretrain.models.spec import FusionSpec, ModelSpec, TextSpec, VisionSpec
from vlpretrain.models.vlmodel import VLModel
from vlpretrain.tasks.retrieval_set import RetrievalSet

SIZE, VOCAB = 16, 40


def tiny_model(kind: str = "cross", seed: int = 0) -> VLModel:
    """Towers and fusion 16 wide, two layers each, with weights large enough to tell pairs apart."""
    torch.manual_seed(seed)
    spec = ModelSpec(
        VisionSpec("vit_tiny_patch16_224", SIZE, 8, depth=2, width=16, heads=2, patch=8),
        TextSpec(vocab_size=VOCAB, max_tokens=24, depth=2, width=16, heads=2),
        FusionSpec(kind, depth=2, width=16, heads=2),
        embed_dim=8,
    )
    model = create_model(spec)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def holder(model: VLModel, scale: float = 10.0) -> Any:
    """A task as the evaluator sees it."""
    return SimpleNamespace(
        model=model,
        training=model.training,
        train=model.train,
        temperature=lambda: torch.tensor(scale),
    )


def tiny_set(captions: Sequence[int], seed: int = 0) -> RetrievalSet:
    """As many captions for each picture as given, 1 to 20 words each."""
    generator = torch.Generator().manual_seed(seed)
    pixels_ICHW = torch.randint(
        0, 256, (len(captions), 3, SIZE, SIZE), dtype=torch.uint8, generator=generator
    )
    owners = tuple(image for image, count in enumerate(captions) for _ in range(count))
    lengths = torch.randint(1, 21, (len(owners),), generator=generator).tolist()
    words = [torch.randint(5, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return RetrievalSet(
        keys=tuple(f"picture-{image}" for image in range(len(captions))),
        texts=tuple(" ".join(map(str, ids)) for ids in words),
        text_ids=tuple((2, *ids, 3) for ids in words),
        image_of_text=owners,
        pad_id=0,
        load_pixels=lambda rows: pixels_ICHW[list(rows)],
    )


@torch.no_grad()
def one_by_one(model: VLModel, data: RetrievalSet) -> tuple[Tensor, Tensor]:
    """Cosine and log-odds of a match [I, T], every pair by calls of its own."""
    seen = [model.vision(data.load_pixels([row])) for row in range(len(data.keys))]
    similarity_IT = torch.empty(len(data.keys), len(data.texts))
    match_IT = torch.empty_like(similarity_IT)
    for text, ids in enumerate(data.text_ids):
        text_1T = torch.tensor([ids])
        valid_1T = torch.ones_like(text_1T, dtype=torch.bool)
        read = model.text(text_1T, valid_1T)
        zero = torch.zeros(1, dtype=torch.int64)
        for image, states in enumerate(seen):
            similarity_IT[image, text] = nn.functional.cosine_similarity(
                model.image_embeddings(states).float(), model.text_embeddings(read).float()
            )
            pairs = FusionPairs(zero, zero, zero)
            fused_1D = model.fusion(states.token_BND, read.token_BTD, valid_1T, pairs)
            logit_2 = model.itm_logits(fused_1D)[0].float()
            match_IT[image, text] = logit_2[1] - logit_2[0]
    return similarity_IT, match_IT
