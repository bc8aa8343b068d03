"""From the run's configuration to DeepSpeed's dictionary. No number is written twice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlpretrain.config.schema import DeepSpeedConfig, RunConfig, TrainConfig
from vlpretrain.errors import UserError


@dataclass(frozen=True, slots=True)
class BatchSplit:
    """How a global batch is divided: global = micro_batch x ranks x micro_steps."""

    micro_batch: int
    ranks: int
    micro_steps: int

    @property
    def global_batch(self) -> int:
        return self.micro_batch * self.ranks * self.micro_steps


def split_batch(train: TrainConfig, ranks: int) -> BatchSplit:
    """Divides the global batch over ranks and micro-steps.

    Raises:
        UserError: the division leaves a rest.
    """
    total = train.global_batch
    if total < 1 or total % ranks:
        raise UserError(
            f"{total} samples can't be divided by {ranks} ranks",
            where="train.global_batch",
            fix=f"use a multiple of {ranks}, such as {max(1, round(total / ranks)) * ranks}",
        )
    micro = train.micro_batch or total // ranks
    if micro < 1 or total % (micro * ranks):
        raise UserError(
            f"train.global_batch {total} is not a multiple of train.micro_batch {micro} "
            f"x {ranks} ranks = {micro * ranks}",
            where="train.micro_batch",
            fix=f"use a divisor of {total // ranks} as micro_batch, or change global_batch",
        )
    return BatchSplit(micro, ranks, total // (micro * ranks))


def deepspeed_dict(config: RunConfig, ranks: int, on_gpu: bool) -> dict[str, Any]:
    """DeepSpeed's configuration for this run.

    Raises:
        UserError: the batch can't be divided, or offload is asked for where it can't be had.
    """
    split = split_batch(config.train, ranks)
    bf16 = config.train.precision == "bf16"
    settings: dict[str, Any] = {
        "train_batch_size": split.global_batch,
        "train_micro_batch_size_per_gpu": split.micro_batch,
        "gradient_accumulation_steps": split.micro_steps,
        "gradient_clipping": 0.0 if clips_itself(config) else config.optim.clip,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero_settings(config.deepspeed, on_gpu),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # DeepSpeed's throughput timer waits for the device at every step.
        "timers": {"throughput": {"enabled": False}},
    }
    if bf16 and config.deepspeed.zero_stage > 0:
        # Stage 0 has no fp32 accumulation in DeepSpeed.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.deepspeed.zero_stage == 1:
        # Else the accumulated fp32 gradient is rounded to bf16 once more before it is reduced.
        settings["communication_data_type"] = "fp32"
    return settings


def clips_itself(config: RunConfig) -> bool:
    """True where DeepSpeed clips, but keeps the gradient norm to itself: stage 0 in fp32."""
    return config.deepspeed.zero_stage == 0 and config.train.precision == "fp32"


def zero_settings(zero: DeepSpeedConfig, on_gpu: bool) -> dict[str, Any]:
    """The `zero_optimization` part. Bucket sizes are in elements; gradients take four bytes.

    Raises:
        UserError: offload without ZeRO or without a GPU.
    """
    bucket = zero.bucket_megabytes * 1_000_000 // 4
    settings: dict[str, Any] = {
        "stage": zero.zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
        "overlap_comm": on_gpu and zero.zero_stage > 1,
        "contiguous_gradients": True,
    }
    if zero.zero_stage == 3:
        settings["stage3_prefetch_bucket_size"] = bucket
        settings["stage3_param_persistence_threshold"] = min(bucket, 100_000)
    if zero.offload == "cpu":
        if zero.zero_stage == 0 or not on_gpu:
            raise UserError(
                "optimiser states can't be offloaded: "
                + ("this machine has no GPU" if not on_gpu else "ZeRO stage 0 keeps no shards"),
                where="deepspeed.offload",
                fix='set deepspeed.offload to "none"'
                + (", or deepspeed.zero_stage to 1 or more" if on_gpu else ""),
            )
        settings["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    return settings
