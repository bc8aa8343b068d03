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
COCA_PUBLISHED_TOKENS = 76


class Flava(nn.Module):
    """FLAVA (Singh et al. 2022): masked image, text and multimodal modelling, matching, contrast.

    Its codebook's targets are given, not computed, which favours it. Captions are padded to the
    longest of the batch, as its processor does.
    """

    def __init__(self, sizes: Sizes) -> None:
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
            init_codebook=False,
        )
        self.sizes = sizes
        self.model = FlavaForPreTraining(config)

    def forward(self, batch: Batch) -> Tensor:
        side, factor = (
            self.sizes.image_size // self.sizes.block,
            self.sizes.block // self.sizes.patch,
        )
        hidden = batch.block_hidden_BG.view(-1, side, side)
        hidden = hidden.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
        word_labels_BT = torch.full_like(batch.text_BT, IGNORED)
        word_labels_BT.view(-1)[batch.hidden_word_index_M] = batch.hidden_word_target_M
        dtype = next(self.model.parameters()).dtype
        output = self.model(
            input_ids=batch.text_BT,
            input_ids_masked=batch.masked_text_BT,
            attention_mask=batch.text_valid_BT.long(),
            pixel_values=_normalised(batch.pixels_BCHW, dtype),
            bool_masked_pos=hidden,
            mim_labels=torch.randint(0, CODEBOOK, hidden.shape),
            mlm_labels=word_labels_BT,
            itm_labels=torch.arange(len(batch)) % 2,
            return_loss=True,
        )
        return output.loss


class Coca(nn.Module):
    """open_clip's CoCa (Yu et al. 2022): contrast and captioning, captions of a fixed length."""

    def __init__(self, sizes: Sizes, num_tokens: int) -> None:
        super().__init__()
        text = {
            "context_length": num_tokens,
            "vocab_size": sizes.vocab_size,
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
        "FLAVA (transformers)": lambda: Flava(sizes),
        f"CoCa (open_clip), {sizes.max_tokens} tokens": lambda: Coca(sizes, sizes.max_tokens),
        f"CoCa (open_clip), {COCA_PUBLISHED_TOKENS} tokens as published": lambda: Coca(
            sizes, COCA_PUBLISHED_TOKENS
        ),
    }


def _normalised(pixels_BCHW: Tensor, dtype: torch.dtype) -> Tensor:
    return ((pixels_BCHW.float() / 255 - 0.5) / 0.5).to(dtype)
