"""Every choice of a run, its default and its documentation. Frozen.

The text under a field is what `vlpretrain config` prints and `--help` shows. A number is written
once: DeepSpeed's dictionary, the schedules and the loader are all derived from here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vlpretrain.config.task_schema import TaskConfig


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how a sample becomes a row of a batch."""

    train: tuple[str, ...] = ()
    """Training sources: a folder of shards, a brace pattern, one .tar, a text or JSON file that
    lists shards, or a remote address that fsspec opens."""
    weights: tuple[float, ...] = ()
    """A weight for each source; samples are mixed in exactly this proportion. Empty: every sample
    of every source comes once an epoch."""
    val: tuple[str, ...] = ()
    """Held-out sources for the evaluation during training; empty: none."""
    image_size: int = 224
    """Side of the square crop, in pixels."""
    crop: Literal["random", "centre"] = "random"
    """random: a crop of random area and aspect, as timm's RandomResizedCrop; centre: the shorter
    side is resized to the crop and the middle taken."""
    crop_area: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest share of the picture's area that a random crop takes."""
    flip: bool = False
    """Mirror half of the pictures. Off by default: a mirrored picture makes `left` and `right`
    in its caption wrong."""
    decode: Literal["fast", "exact"] = "fast"
    """fast: JPEG decoded at the smallest scale that covers the crop (libjpeg's DCT scaling);
    exact: at full size."""
    caption: Literal["random", "first"] = "random"
    """Which of a picture's captions is read in an epoch."""
    tokenizer: str = "train"
    """A tokenizer folder, a hub name, "open_clip:MODEL", or "train": a WordPiece vocabulary is
    trained on the training captions when the run starts and kept with it (of single characters,
    where there are none and no objective reads any)."""
    vocab_size: int = 8000
    """Largest vocabulary of a tokenizer trained here."""
    max_tokens: int = 40
    """Longer texts are cut here; shorter ones are padded to the longest of the micro-batch only."""
    shuffle: bool = True
    """Shuffle by blocks of shards, a new order each epoch; off: the order of the index."""
    shuffle_block: int = 8
    """Shards that are shuffled together: larger mixes better, smaller reads more sequentially."""
    workers: int = 2
    """Loader processes of a rank; 0 loads in the training process."""
    prefetch: int = 4
    """Micro-batches that each worker prepares ahead."""
    max_pixels: int = 89_478_485
    """Pictures whose header says more pixels are skipped before they are decoded (Pillow's own
    limit for decompression bombs)."""
    max_skipped: float = 0.05
    """The run stops when more than this share of the samples seen could not be used."""
    cache_dir: str = ""
    """Folder for remote shards and for indexes of read-only folders; empty: the user's cache."""
    cache_gigabytes: float = 50.0
    """Size that the cache of remote shards is held under."""
    allow_unsafe: bool = False
    """Dangerous: follow `pipe:` addresses, which run a shell command. Never set it for shards
    that you did not make."""


@dataclass(frozen=True)
class VisionConfig:
    """The image tower."""

    name: str = "vit_small_patch16_224"
    """Any timm ViT, Swin, ConvNeXt or ResNet by name, or "open_clip:MODEL" (ViT-B-32, ...)."""
    weights: str = ""
    """Empty: random; "pretrained" or an open_clip tag: from the hub; else a local file."""
    depth: int = 0
    """Layers of a timm ViT; 0: the model's own."""
    width: int = 0
    """Width of a timm ViT; 0: the model's own."""
    heads: int = 0
    """Attention heads of a timm ViT; 0: the model's own."""
    patch: int = 0
    """Patch side of a timm ViT in pixels; 0: the model's own."""
    drop_path: float = 0.0
    """Stochastic depth rate of the last layer."""
    position: Literal["own", "conditional"] = "own"
    """own: the backbone's position embedding alone; conditional: a plain timm ViT also adds a 3x3
    depthwise convolution behind its first block (Chu et al. 2021), so that it need not learn from
    data which patches are neighbours: worth it from random weights on little data."""
    stem: Literal["own", "conv"] = "own"
    """own: the backbone's way from pixels to tokens, one projection a patch in a ViT; conv: a
    plain timm ViT sees each patch through a few 3x3 convolutions (Xiao et al. 2021), which learn
    shapes that one projection does not within a short training."""


@dataclass(frozen=True)
class TextConfig:
    """The text tower."""

    name: str = "bert"
    """"bert": a BERT encoder of the sizes below, random; a local folder or hub name of any
    transformers encoder; or "open_clip:MODEL"."""
    weights: Literal["random", "pretrained"] = "random"
    """For a named encoder: its weights, or its architecture with random ones."""
    depth: int = 6
    """Layers of the "bert" encoder."""
    width: int = 384
    """Width of the "bert" encoder."""
    heads: int = 6
    """Attention heads of the "bert" encoder."""
    dropout: float = 0.1
    """Dropout of the "bert" encoder."""


@dataclass(frozen=True)
class FusionConfig:
    """The cross-modal module that reads a text together with a picture."""

    kind: Literal["cross", "merged", "concat"] = "cross"
    """cross: text queries attend to the picture, whose keys and values are computed once a
    picture; merged: one self-attention over words and patches in every layer; concat: pooled
    vectors side by side through an MLP, the plain baseline."""
    depth: int = 6
    """Layers."""
    width: int = 384
    """Width; the towers are projected to it where theirs differs."""
    heads: int = 6
    """Attention heads."""
    dropout: float = 0.1
    """Dropout after attention and feed-forward."""


@dataclass(frozen=True)
class ModelConfig:
    """Towers, fusion and the shared embedding space."""

    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    embed_dim: int = 256
    """Width of the space in which pictures and texts are compared."""


@dataclass(frozen=True)
class ScheduleConfig:
    """When an objective runs, as shares of the run (0 to 1), and how its weight moves."""

    start: float = 0.0
    """Switched on here."""
    stop: float = 1.0
    """Switched off here."""
    ramp: float = 0.0
    """The weight rises linearly from 0 over this share of the run after `start`."""


@dataclass(frozen=True)
class MimConfig:
    """Masked-image modelling (SimMIM, Xie et al. 2022)."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches the objective off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    block: int = 32
    """Side of a mask block in pixels; a multiple of the tower's patch."""
    ratio: float = 0.6
    """Share of the blocks that is hidden."""
    loss: Literal["l1", "mse"] = "l1"
    """Distance between prediction and target on hidden pixels."""
    normalise_target: bool = False
    """Targets normalised by each patch's own mean and deviation (He et al. 2022)."""
    encode: Literal["mask_token", "visible"] = "mask_token"
    """mask_token: hidden patches enter the tower as a learned token; visible: only visible patches
    enter, and a light decoder predicts the rest (ViT only; faster)."""
    decoder_depth: int = 2
    """Layers of the decoder of `visible`."""
    decoder_width: int = 192
    """Width of the decoder of `visible`."""
    image_pass: Literal["shared", "separate"] = "shared"
    """shared: every objective reads the masked picture's one pass; separate: the others read a
    second pass over the whole picture, as published."""


@dataclass(frozen=True)
class ItmConfig:
    """Image-text matching with hard negatives (Li et al. 2021)."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches the objective off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    negatives: Literal["local", "global"] = "local"
    """Where negatives come from: the rank's own micro-batch, or the micro-batches of all ranks
    (only the chosen rows travel)."""
    hard_from: float = 0.2
    """Share of the run from which negatives are drawn in proportion to their contrastive
    similarity; before it evenly, since hard ones from the first step hold the loss at its chance
    level for long. 0: always hard; 1: never."""


@dataclass(frozen=True)
class ItcConfig:
    """Image-text contrast (Radford et al. 2021), global over ranks and accumulation."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches the objective off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    temperature: float = 0.07
    """Starting temperature; learned, and never under 0.01. What `init` has learned takes its
    place."""


@dataclass(frozen=True)
class MlmConfig:
    """Masked-language modelling, the words read with the picture (Li et al. 2021)."""

    weight: float = 1.0
    """Weight in the sum of losses; 0 switches the objective off."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ratio: float = 0.15
    """Share of the words that is hidden; at least one word of every text."""
    whole_words: bool = True
    """Hide all pieces of a word together."""


@dataclass(frozen=True)
class ObjectivesConfig:
    """The pretraining losses; each is weighted, scheduled and reported on its own."""

    mim: MimConfig = field(default_factory=MimConfig)
    itm: ItmConfig = field(default_factory=ItmConfig)
    itc: ItcConfig = field(default_factory=ItcConfig)
    mlm: MlmConfig = field(default_factory=MlmConfig)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with warm-up, a stretch at the peak where asked for, and cosine decay."""

    lr: float = 3e-4
    """Peak learning rate."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine."""
    warmup: float = 0.05
    """Linear warm-up, as a share of the run."""
    hold: float = 0.0
    """Share of the run behind the warm-up that stays at the peak (Hu et al. 2024, "MiniCPM",
    section 4), worth it in a short run whose learning sets in late."""
    weight_decay: float = 0.05
    """Decay of matrices; biases, norms, embeddings and tokens are never decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moment decays."""
    eps: float = 1e-6
    """AdamW's epsilon."""
    clip: float = 1.0
    """Largest global gradient norm; 0: no clipping."""
    layer_decay: float = 1.0
    """Each layer of a tower learns this many times slower than the one above it (Clark et al.
    2020), as SimMIM's fine-tuning does; 1: all alike."""
    head_lr: float = 1.0
    """The heads that a fine-tuning adds learn this many times faster."""


@dataclass(frozen=True)
class TrainConfig:
    """How long, how much at once, and in which precision."""

    steps: int = 0
    """Optimiser steps; 0: given by `epochs`."""
    epochs: float = 1.0
    """Passes over the training samples, where `steps` is 0."""
    global_batch: int = 256
    """Samples of an optimiser step, over all ranks and micro-steps. It fixes the training, whatever
    the number of ranks."""
    micro_batch: int = 0
    """Samples that a rank computes at once; 0: as many as give one micro-step. Gradient
    accumulation follows: global_batch / (micro_batch x ranks)."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Precision of the computation; the master weights are fp32 either way."""
    compile: bool = False
    """torch.compile the towers and the fusion: slower to start, faster to run."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    ema: float = 0.0
    """Decay of an exponential moving average of the weights, exported beside the last ones;
    0: none."""
    seed: int = 0
    """Of everything random: order, crops, masks, captions, weights, dropout."""


@dataclass(frozen=True)
class DeepSpeedConfig:
    """What DeepSpeed shards."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    """0: nothing; 1: optimiser states; 2: and gradients; 3: and parameters. The lowest that fits
    is the fastest."""
    offload: Literal["none", "cpu"] = "none"
    """Keep optimiser states in the host's memory (needs stage 1 or more, and a GPU)."""
    bucket_megabytes: int = 100
    """Size of a reduction bucket."""


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run, and how it goes on."""

    every: int = 1000
    """Steps between checkpoints; the last step always has one."""
    keep: int = 2
    """Checkpoints kept; older ones are deleted once a newer one is whole."""
    resume: str = "auto"
    """auto: go on from the run folder's newest whole checkpoint, if any; never: refuse a folder
    that has one; else a checkpoint's folder."""


@dataclass(frozen=True)
class LogConfig:
    """What is written while training."""

    every: int = 10
    """Steps between lines of metrics.jsonl and of the screen."""
    tensorboard: bool = True
    """Also write TensorBoard event files."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The look at held-out samples during and after training (data.val)."""

    every: int = 0
    """Steps between evaluations; 0: at the end only."""
    samples: int = 0
    """Held-out samples used, the first of the source, the same every time; 0: all."""
    batch: int = 64
    """Samples evaluated at once."""
    overlap: bool = True
    """Look whether held-out pictures or texts are in the training data, and say so beside the
    figures."""


@dataclass(frozen=True)
class RunConfig:
    """A run: pretraining, fine-tuning or an evaluation."""

    out: str = "runs/pretrain"
    """The run's folder."""
    init: str = ""
    """An export folder whose model and tokenizer the run starts from; its own architecture is
    kept, but for the picture's size and what dropout and drop_path say. Empty: as `model` says."""
    task: TaskConfig = field(default_factory=TaskConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    deepspeed: DeepSpeedConfig = field(default_factory=DeepSpeedConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
