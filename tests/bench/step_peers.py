"""Other people's models at the sizes of step.py, as losses of one of our batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from open_clip import CLIPTextCfg, CLIPVisionCfg
from open_clip.coca_model import CoCa, MultimodalCfg
from open_clip.loss import CoCaLoss
from torch import Tensor, nn
from transformers import FlavaConfig, FlavaForPreTraining

from tests.bench.step_batch import PAD, Sizes
from vlpretrain.types import Batch

IGNORED = -100
# Of FLAVA's picture tokens (DALL-E's codebook).
CODEBOOK = 8192
# Its pictures have half a side for patches of 16 px: one code stands for 8 x 8 of its pixels.
CODE_SIDE = 8
FLAVA_PUBLISHED_TOKENS = 77
COCA_PUBLISHED_TOKENS, COCA_PUBLISHED_VOCABULARY = 76, 49408
# Their names in the table.
FLAVA = "FLAVA as published"
COCA = "CoCa as published"


class Flava(nn.Module):
    """FLAVA (Singh et al. 2022): masked image, text and multimodal modelling, matching, contrast.

    Half of the pairs are called matching: FLAVA expects negatives within the batch, and works a
    little less for them. Captions are padded to `num_tokens`; 0: to the longest of the batch.
    `with_codebook`: the codes that it predicts are computed by its (frozen) codebook, as in its
    training; otherwise they are given.
    """

    def __init__(self, sizes: Sizes, num_tokens: int = 0, with_codebook: bool = False) -> None:
        super().__init__()
        tower = {
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.depth,
            "num_attention_heads": sizes.heads,
            "intermediate_size": 4 * sizes.width,
        }
        picture = {"image_size": sizes.image_size, "patch_size": sizes.patch}
        config = FlavaConfig(
            image_config={**tower, **picture, "vocab_size": CODEBOOK},
            text_config={**tower, "vocab_size": sizes.vocab_size},
            multimodal_config=tower,
            hidden_size=sizes.width,
            projection_dim=sizes.embed_dim,
            init_codebook=with_codebook,
        )
        self.sizes, self.num_tokens, self.with_codebook = sizes, num_tokens, with_codebook
        self.model = FlavaForPreTraining(config)

    def forward(self, batch: Batch) -> Tensor:
        target_BT = torch.full_like(batch.text_BT, IGNORED)
        target_BT.view(-1)[batch.hidden_word_index_M] = batch.hidden_word_target_M
        missing = max(0, self.num_tokens - batch.text_BT.shape[1])
        pixels_BCHW = _normalised(batch.pixels_BCHW, next(self.model.parameters()).dtype)
        output = self.model(
            input_ids=F.pad(batch.text_BT, (0, missing), value=PAD),
            input_ids_masked=F.pad(batch.masked_text_BT, (0, missing), value=PAD),
            attention_mask=F.pad(batch.text_valid_BT.long(), (0, missing)),
            pixel_values=pixels_BCHW,
            bool_masked_pos=_hidden_patches(batch, self.sizes),
            mlm_labels=F.pad(target_BT, (0, missing), value=IGNORED),
            itm_labels=torch.arange(len(batch)) % 2,
            return_loss=True,
            **self._codes(pixels_BCHW),
        )
        return output.loss

    def _codes(self, pixels_BCHW: Tensor) -> dict[str, Tensor]:
        side = self.sizes.image_size // self.sizes.patch
        if not self.with_codebook:
            return {"mim_labels": torch.randint(0, CODEBOOK, (len(pixels_BCHW), side, side))}
        return {"codebook_pixel_values": F.interpolate(pixels_BCHW, size=side * CODE_SIDE)}


class Coca(nn.Module):
    """open_clip's CoCa (Yu et al. 2022): contrast and captioning, captions of a fixed length."""

    def __init__(self, sizes: Sizes, num_tokens: int, vocab_size: int) -> None:
        super().__init__()
        text = {
            "context_length": num_tokens,
            "vocab_size": vocab_size,
            "width": sizes.width,
            "heads": sizes.heads,
            "layers": sizes.depth,
        }
        vision = CLIPVisionCfg(
            layers=sizes.image_depth,
            width=sizes.width,
            head_width=sizes.width // sizes.heads,
            patch_size=sizes.patch,
            image_size=sizes.image_size,
            attentional_pool=True,
            attn_pooler_heads=sizes.heads,
            output_tokens=True,
        )
        unimodal = CLIPTextCfg(**text, embed_cls=True, output_tokens=True, pad_id=PAD)
        self.model = CoCa(
            sizes.width,
            MultimodalCfg(**text, attn_pooler_heads=sizes.heads),
            unimodal,
            vision,
            pad_id=PAD,
        )
        # open_clip leaves this matrix uninitialised; what stands there can overflow.
        nn.init.normal_(self.model.text_decoder.text_projection, std=sizes.width**-0.5)
        self.num_tokens = num_tokens
        self.loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=PAD)

    def forward(self, batch: Batch) -> Tensor:
        missing = self.num_tokens - batch.text_BT.shape[1]
        text_BT = F.pad(batch.text_BT, (0, missing), value=PAD)
        dtype = next(self.model.parameters()).dtype
        output = self.model(_normalised(batch.pixels_BCHW, dtype), text_BT)
        contrast, caption = self.loss(**output)
        return contrast + caption


def peers(sizes: Sizes) -> dict[str, Callable[[], nn.Module]]:
    """The builders, by the name in the table."""
    return {
        "FLAVA, captions trimmed, codes given": lambda: Flava(sizes),
        FLAVA: lambda: Flava(sizes, FLAVA_PUBLISHED_TOKENS, with_codebook=True),
        f"CoCa, {sizes.max_tokens} tokens, same vocabulary": lambda: Coca(
            sizes, sizes.max_tokens, sizes.vocab_size
        ),
        COCA: lambda: Coca(sizes, COCA_PUBLISHED_TOKENS, COCA_PUBLISHED_VOCABULARY),
    }


def _hidden_patches(batch: Batch, sizes: Sizes) -> Tensor:
    """bool [B, rows, columns]."""
    side, factor = sizes.image_size // sizes.block, sizes.block // sizes.patch
    hidden = batch.block_hidden_BG.view(-1, side, side)
    return hidden.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def _normalised(pixels_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    return ((pixels_BCHW.float() / 255 - 0.5) / 0.5).to(dtype)
