"""The four objectives written the obvious way, as published code does it, to be timed beside ours.

A clean and a masked image pass (Li et al. 2021; Xie et al. 2022), captions padded to a fixed
length, text and masked text apart, one fusion call for positives, one for both kinds of negatives
and one for masked words, the picture's keys and values projected for every pair, every position
through all layers, the vocabulary head on every position. Each of `Savings` undoes one of these.

Shapes: B samples, N image tokens, T text positions, P pairs, Q positions read of a pair, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from tests.bench.step_batch import Sizes
from vlpretrain.models.attention import attend, merge_heads, split_heads
from vlpretrain.types import Batch

IGNORED = -100
TEMPERATURE = 0.07


@dataclass(frozen=True)
class Savings:
    """What is done better than the plain way; every one leaves the losses what they are, but for
    `shared_image_pass`, which lets all objectives read the masked picture. `keys_once_an_image` is
    within a fusion call, and so wants `joint_calls`."""

    shared_image_pass: bool = False
    keys_once_an_image: bool = False
    trimmed_captions: bool = False
    head_on_hidden_words: bool = False
    last_layer_for_read: bool = False
    joint_calls: bool = False


class PlainWay(nn.Module):
    """The sum of the four losses of one batch."""

    def __init__(self, sizes: Sizes, savings: Savings, plain_attention: bool) -> None:
        super().__init__()
        self.sizes, self.savings = sizes, savings
        self.vision = MaskedVit(sizes, plain_attention)
        self.text = _bert(sizes, plain_attention)
        self.fusion = PlainFusion(sizes, savings, plain_attention)
        self.image_projection = nn.Linear(sizes.width, sizes.embed_dim)
        self.text_projection = nn.Linear(sizes.width, sizes.embed_dim)
        self.scale = nn.Parameter(torch.tensor(1 / TEMPERATURE).log())
        self.match_head = nn.Linear(sizes.width, 2)
        self.pixel_head = nn.Linear(sizes.width, 3 * sizes.patch**2)
        self.word_head = nn.Sequential(
            nn.Linear(sizes.width, sizes.width),
            nn.GELU(),
            nn.LayerNorm(sizes.width),
            nn.Linear(sizes.width, sizes.vocab_size),
        )

    def forward(self, batch: Batch) -> Tensor:
        pixels_BCHW = self._normalised(batch.pixels_BCHW)
        patch_hidden_BN = _to_patches(batch.block_hidden_BG, self.sizes)
        masked_image_BND = self.vision(pixels_BCHW, patch_hidden_BN)
        shares = self.savings.shared_image_pass
        image_BND = masked_image_BND if shares else self.vision(pixels_BCHW, None)
        texts = self._texts(batch)
        text_BTD, masked_text_BTD = self._text_states(texts)
        similarity_BB = self._similarity(image_BND, text_BTD)
        match_loss, word_loss = self._fused_losses(
            image_BND, text_BTD, masked_text_BTD, texts, similarity_BB
        )
        contrast_loss = _contrast(similarity_BB)
        image_loss = self._image_loss(masked_image_BND, pixels_BCHW, patch_hidden_BN)
        return image_loss + match_loss + contrast_loss + word_loss

    def _normalised(self, pixels_BCHW: Tensor) -> Tensor:
        dtype = self.match_head.weight.dtype
        return ((pixels_BCHW.float() / 255 - 0.5) / 0.5).to(dtype)

    def _texts(self, batch: Batch) -> Texts:
        texts = Texts.of(batch)
        missing = self.sizes.max_tokens - texts.text_BT.shape[1]
        return texts if self.savings.trimmed_captions else texts.padded(missing)

    def _text_states(self, texts: Texts) -> tuple[Tensor, Tensor]:
        valid_BT = texts.valid_BT.long()
        if self.savings.joint_calls:
            both = torch.cat([texts.text_BT, texts.masked_text_BT])
            states = self.text(both, attention_mask=valid_BT.repeat(2, 1)).last_hidden_state
            text_BTD, masked_text_BTD = states.chunk(2)
            return text_BTD, masked_text_BTD
        return (
            self.text(texts.text_BT, attention_mask=valid_BT).last_hidden_state,
            self.text(texts.masked_text_BT, attention_mask=valid_BT).last_hidden_state,
        )

    def _similarity(self, image_BND: Tensor, text_BTD: Tensor) -> Tensor:
        image_BE = F.normalize(self.image_projection(image_BND[:, 0]).float(), dim=-1)
        text_BE = F.normalize(self.text_projection(text_BTD[:, 0]).float(), dim=-1)
        return self.scale.float().exp() * image_BE @ text_BE.T

    def _fused_losses(
        self,
        image_BND: Tensor,
        text_BTD: Tensor,
        masked_text_BTD: Tensor,
        texts: Texts,
        similarity_BB: Tensor,
    ) -> tuple[Tensor, Tensor]:
        row_B = torch.arange(len(image_BND))
        negative_text_B = _negatives(similarity_BB)
        negative_image_B = _negatives(similarity_BB.T)
        first_B1 = torch.zeros(len(row_B), 1, dtype=torch.long)
        # ALBEF's calls: positives; both kinds of negatives; masked words.
        calls = [
            Call(text_BTD, texts.valid_BT, row_B, first_B1),
            Call(
                torch.cat([text_BTD[negative_text_B], text_BTD]),
                torch.cat([texts.valid_BT[negative_text_B], texts.valid_BT]),
                torch.cat([row_B, negative_image_B]),
                first_B1.repeat(2, 1),
            ),
            Call(masked_text_BTD, texts.valid_BT, row_B, texts.read_BQ),
        ]
        states = self._fuse(image_BND, calls)
        word_loss = self._word_loss(states.pop(), texts)
        logits_P2 = self.match_head(torch.cat([state_PQD[:, 0] for state_PQD in states]))
        target_P = torch.zeros(len(logits_P2), dtype=torch.long)
        target_P[: len(row_B)] = 1
        return F.cross_entropy(logits_P2.float(), target_P), word_loss

    def _fuse(self, image_BND: Tensor, calls: list[Call]) -> list[Tensor]:
        if not self.savings.joint_calls:
            return [self.fusion(image_BND, call) for call in calls]
        most = max(call.read_PQ.shape[1] for call in calls)
        joint = Call(
            torch.cat([call.text_PTD for call in calls]),
            torch.cat([call.valid_PT for call in calls]),
            torch.cat([call.image_row_P for call in calls]),
            torch.cat([F.pad(call.read_PQ, (0, most - call.read_PQ.shape[1])) for call in calls]),
        )
        return list(self.fusion(image_BND, joint).split([len(call.text_PTD) for call in calls]))

    def _word_loss(self, state_BTD: Tensor, texts: Texts) -> Tensor:
        """`state_BTD` holds every position, or with last_layer_for_read those of read_BQ."""
        target_BT = texts.target_BT
        if self.savings.last_layer_for_read:
            target_BT = target_BT.gather(1, texts.read_BQ).where(texts.read_valid_BQ, IGNORED)
            state_BTD = state_BTD[:, : target_BT.shape[1]]
        if self.savings.head_on_hidden_words:
            hidden_BT = target_BT != IGNORED
            state_BTD, target_BT = state_BTD[hidden_BT], target_BT[hidden_BT]
        logits = self.word_head(state_BTD).float()
        return F.cross_entropy(logits.flatten(0, -2), target_BT.flatten(), ignore_index=IGNORED)

    def _image_loss(
        self, image_BND: Tensor, pixels_BCHW: Tensor, patch_hidden_BN: Tensor
    ) -> Tensor:
        predicted_BNE = self.pixel_head(image_BND[:, 1:]).float()
        patches = F.pixel_unshuffle(pixels_BCHW.float(), self.sizes.patch)
        target_BNE = patches.flatten(2).transpose(1, 2)
        loss_BN = (predicted_BNE - target_BNE).abs().mean(-1)
        return (loss_BN * patch_hidden_BN).sum() / patch_hidden_BN.sum()


@dataclass(frozen=True)
class Texts:
    """The batch's captions as the plain way wants them: a target at every position."""

    text_BT: Tensor
    masked_text_BT: Tensor
    valid_BT: Tensor
    target_BT: Tensor
    read_BQ: Tensor  # columns of each row's hidden words, filled up with 0
    read_valid_BQ: Tensor

    @staticmethod
    def of(batch: Batch) -> Texts:
        target_BT = torch.full_like(batch.text_BT, IGNORED)
        target_BT.view(-1)[batch.hidden_word_index_M] = batch.hidden_word_target_M
        hidden_BT = target_BT != IGNORED
        most = int(hidden_BT.sum(1).max())
        read_valid_BQ, read_BQ = hidden_BT.int().topk(most, dim=1)
        return Texts(
            batch.text_BT,
            batch.masked_text_BT,
            batch.text_valid_BT,
            target_BT,
            read_BQ.where(read_valid_BQ.bool(), 0),
            read_valid_BQ.bool(),
        )

    def padded(self, missing: int) -> Texts:
        return Texts(
            F.pad(self.text_BT, (0, missing)),
            F.pad(self.masked_text_BT, (0, missing)),
            F.pad(self.valid_BT, (0, missing)),
            F.pad(self.target_BT, (0, missing), value=IGNORED),
            self.read_BQ,
            self.read_valid_BQ,
        )


@dataclass(frozen=True)
class Call:
    """One fusion call: texts, the row of the picture that each meets, the positions wanted."""

    text_PTD: Tensor
    valid_PT: Tensor
    image_row_P: Tensor
    read_PQ: Tensor


class MaskedVit(nn.Module):
    """A timm ViT in whose input a learned token stands for hidden patches (SimMIM)."""

    def __init__(self, sizes: Sizes, plain_attention: bool) -> None:
        super().__init__()
        self.vit = timm.create_model(
            "vit_small_patch16_224",
            img_size=sizes.image_size,
            depth=sizes.image_depth,
            num_classes=0,
        )
        for block in self.vit.blocks:
            block.attn.fused_attn = not plain_attention
        self.mask_token = nn.Parameter(torch.zeros(1, 1, sizes.width))

    def forward(self, pixels_BCHW: Tensor, patch_hidden_BN: Tensor | None) -> Tensor:
        """All tokens, [CLS] first."""
        token_BND = self.vit.patch_embed(pixels_BCHW)
        if patch_hidden_BN is not None:
            token_BND = torch.where(patch_hidden_BN[..., None], self.mask_token, token_BND)
        token_BND = self.vit._pos_embed(token_BND)
        return self.vit.norm(self.vit.blocks(token_BND))


class PlainFusion(nn.Module):
    """Pre-norm layers of self-attention, cross-attention and feed-forward."""

    def __init__(self, sizes: Sizes, savings: Savings, plain_attention: bool) -> None:
        super().__init__()
        self.savings = savings
        self.image_norm = nn.LayerNorm(sizes.width)
        self.layers = nn.ModuleList(
            PlainLayer(sizes, savings.keys_once_an_image, plain_attention)
            for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, image_BND: Tensor, call: Call) -> Tensor:
        """States of all positions [P, T, D]; with last_layer_for_read of `read_PQ`: [P, Q, D]."""
        image_BND = self.image_norm(image_BND)
        state_PTD = call.text_PTD
        for layer in self.layers[:-1]:
            state_PTD = layer(state_PTD, image_BND, call, None)
        read_PQ = call.read_PQ if self.savings.last_layer_for_read else None
        return self.norm(self.layers[-1](state_PTD, image_BND, call, read_PQ))


class PlainLayer(nn.Module):
    """One layer; the picture's keys and values for every pair, or once a picture."""

    def __init__(self, sizes: Sizes, keys_once_an_image: bool, plain_attention: bool) -> None:
        super().__init__()
        self.keys_once_an_image = keys_once_an_image
        self.word_norm, self.picture_norm, self.feed_norm = (
            nn.LayerNorm(sizes.width) for _ in range(3)
        )
        self.words = PlainAttention(sizes, plain_attention)
        self.picture = PlainAttention(sizes, plain_attention)
        self.feed = nn.Sequential(
            nn.Linear(sizes.width, 4 * sizes.width),
            nn.GELU(),
            nn.Linear(4 * sizes.width, sizes.width),
        )
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(
        self, state_PTD: Tensor, image_BND: Tensor, call: Call, read_PQ: Tensor | None
    ) -> Tensor:
        normed_PTD = self.word_norm(state_PTD)
        asking_PQD, state_PQD = normed_PTD, state_PTD
        if read_PQ is not None:
            index_PQD = read_PQ[..., None].expand(-1, -1, state_PTD.shape[-1])
            asking_PQD, state_PQD = normed_PTD.gather(1, index_PQD), state_PTD.gather(1, index_PQD)
        words_PTE = self.words.key_value(normed_PTD)
        state_PQD = state_PQD + self.dropout(self.words(asking_PQD, words_PTE, call.valid_PT))
        if self.keys_once_an_image:
            picture_PNE = self.picture.key_value(image_BND)[call.image_row_P]
        else:
            picture_PNE = self.picture.key_value(image_BND[call.image_row_P])
        seen_PQD = self.picture(self.picture_norm(state_PQD), picture_PNE, None)
        state_PQD = state_PQD + self.dropout(seen_PQD)
        return state_PQD + self.dropout(self.feed(self.feed_norm(state_PQD)))


class PlainAttention(nn.Module):
    """Multi-head attention over keys and values that the caller projects."""

    def __init__(self, sizes: Sizes, plain_attention: bool) -> None:
        super().__init__()
        self.heads, self.plain = sizes.heads, plain_attention
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key_value = nn.Linear(sizes.width, 2 * sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)

    def forward(self, asking_PQD: Tensor, key_value_PNE: Tensor, valid_PN: Tensor | None) -> Tensor:
        key_PND, value_PND = key_value_PNE.chunk(2, dim=-1)
        query, key, value = (
            split_heads(part, self.heads) for part in (self.query(asking_PQD), key_PND, value_PND)
        )
        return self.out(merge_heads(attend(query, key, value, valid_PN, plain=self.plain)))


def _bert(sizes: Sizes, plain_attention: bool) -> BertModel:
    config = BertConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager" if plain_attention else "sdpa",
    )
    return BertModel(config, add_pooling_layer=False)


def _to_patches(block_hidden_BG: Tensor, sizes: Sizes) -> Tensor:
    """A mask of blocks as a mask of patches, [B, N]."""
    side, factor = sizes.image_size // sizes.block, sizes.block // sizes.patch
    grid = block_hidden_BG.view(-1, side, side)
    return grid.repeat_interleave(factor, 1).repeat_interleave(factor, 2).flatten(1)


def _negatives(similarity_BB: Tensor) -> Tensor:
    """One other column for each row, likelier where more similar."""
    same_BB = torch.eye(len(similarity_BB), dtype=torch.bool)
    weight_BB = similarity_BB.detach().masked_fill(same_BB, -torch.inf).softmax(-1)
    return torch.multinomial(weight_BB, 1).squeeze(1)


def _contrast(similarity_BB: Tensor) -> Tensor:
    target_B = torch.arange(len(similarity_BB))
    return (
        F.cross_entropy(similarity_BB, target_B) + F.cross_entropy(similarity_BB.T, target_B)
    ) / 2
