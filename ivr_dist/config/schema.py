"""Every key of a run's config, typed and documented in place.

A config is a YAML file of the sections below plus dotted overrides (`train.lr=3e-4`). `config_file` reads it; this
module only says what the keys are, so that it can be read top to bottom as the reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Modality = Literal["text", "audio", "vision"]


def key(default: Any, doc: str) -> Any:
    """A config key: its default and the line that documents it (shown by errors and by `plan`)."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


def section(kind: type, doc: str) -> Any:
    """A nested section of keys."""
    return field(default_factory=kind, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run lives and how wide it is."""

    dir: str = key("runs/default", "Directory or fsspec URL of the run; every worker must reach it.")
    seed: int = key(0, "Seed of initial weights, data order and dropout.")
    num_workers: int | list[int] = key(
        2, "Training workers, one process (and GPU) each; 0 trains in this process; [min, max]: as many as there are."
    )
    threads: int | None = key(
        None, "CPU threads of a run with num_workers=0; unset: OMP_NUM_THREADS, or as many as processors are free."
    )
    resume: str = key("auto", "auto: continue the run's newest complete checkpoint; never: start over; or a path.")
    audit: bool = key(True, "Keep a ledger of the sample ids trained on, for `ivr-dist audit`.")
    max_failures: int = key(3, "Worker failures survived before the run gives up; -1 for any number.")
    wait_s: float = key(300.0, "Seconds to wait for machines of the cluster that RAY_ADDRESS names.")
    resize_s: float = key(60.0, "With [min, max]: seconds between two looks whether the run can go on more workers.")
    hang_after_s: float = key(
        300.0, "Seconds without progress, and 20 times the usual, after which a worker is ended; 0: never."
    )

    @property
    def fewest_workers(self) -> int:
        """Workers without which nothing starts; 0 trains in this process."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Workers that are asked for."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[-1]

    @property
    def world_sizes(self) -> list[int]:
        """World sizes that may come about; training in this process is a world of 1."""
        return list(range(max(self.fewest_workers, 1), max(self.most_workers, 1) + 1))


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Packed data sets and the order they are read in."""

    train: str = key("", "Directory or fsspec URL of the packed training split.")
    valid: str = key("", "Packed validation split; empty: no validation, no early stopping, no best checkpoint.")
    test: str = key("", "Packed test split, scored once at the end; empty: not scored.")
    modalities: list[Modality] = key(["text", "audio", "vision"], "Modalities used, of those the data set has.")
    standardize: list[Modality] = key(["audio", "vision"], "Modalities scaled to mean 0, deviation 1 of train.")
    lanes: int | None = key(None, "Parallel reading lanes of the order; unset: largest divisor of the batch up to 64.")
    shuffle_delay: int | None = key(
        None, "How far a sample may move within its lane, in samples; 0 keeps packing order; unset: 1000 or what fits."
    )
    by_length: bool = key(False, "Order the slots of each global batch by length: less padding with several workers.")
    prefetch: int = key(4, "Steps read ahead of the training loop.")
    cache_bytes: str = key("1GiB", "Shard segments kept in memory for each worker.")
    disk_cache: str = key("", "Local directory that keeps what was read from elsewhere; empty: none.")
    disk_cache_bytes: str = key("50GiB", "Limit of disk_cache, for all processes of a machine that share it.")
    reader: Literal["ranges", "webdataset"] = key(
        "ranges",
        "ranges: requests for parts of shards; webdataset: whole shards as streams, where there are no ranges.",
    )
    pipe: str = key("", "Shell command whose output is the shard {}, for reader webdataset; empty: the file is opened.")
    deadline_s: float = key(600.0, "Seconds of attempts to read a range before it is an error.")
    verify: bool = key(True, "Compare every range that is read with its checksum.")
    on_error: Literal["raise", "skip"] = key("raise", "raise: what cannot be read ends the run; skip: weight 0 for it.")
    max_skipped: int = key(100, "Samples skipped in an epoch, over all workers, after which the run ends all the same.")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """How one modality's steps are put in context before the codes are taken."""

    kind: Literal["transformer", "gru", "none"] = key("transformer", "Context encoder over the steps.")
    layers: int = key(1, "Encoder layers.")
    heads: int = key(4, "Attention heads of a transformer encoder; must divide model.hidden.")
    feedforward: int = key(1, "Width of a transformer's feed-forward layer, in multiples of model.hidden.")


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """Text: what the shards hold (feature vectors, or token ids with an embedding), or words from a pretrained encoder.

    With a pretrained encoder the transcript is read instead of the packed text, one step a word.
    """

    pretrained: str = key("", "Hugging Face encoder that reads the transcripts, a name or a folder; empty: none.")
    trained_layers: int | None = key(None, "Last layers of it that are trained, 0 for none; unset: all of it.")
    dropout: float | None = key(None, "Rate of every dropout in the pretrained encoder; unset: as it was trained.")


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """How the codes of all modalities become one prediction."""

    heads: int = key(4, "Attention heads of the cross attention and of the fusion encoder; must divide model.hidden.")
    layers: int = key(1, "Transformer layers over the fused sequence; 0: none.")
    content: Literal["private", "shared", "both"] = key("private", "Codes whose content reaches the prediction.")
    gate: Literal["sigmoid", "straight_through", "hard", "none"] = key("sigmoid", "Per-step gate of each modality.")
    positions: bool = key(True, "Whether the content of a step tells where in the sequence it stands.")
    pooling: Literal["mean", "max", "attention", "first"] = key(
        "mean", "How the fused steps become one vector; first: the newest step, in sequences that start with it."
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model."""

    preset: Literal["ivr", "release"] = key(
        "ivr", "Which model: ivr, the corrected method; release, the authors' released one, and its other defaults."
    )
    size: Literal["base", "large", "xl"] = key(
        "base", "Width, layers and heads of preset ivr, where their own keys are unset: h = 128, 512 or 1024."
    )
    hidden: int = key(128, "Width h of codes and fusion.")
    dropout: float | None = key(None, "One rate for every dropout; unset: each its own (see docs/method.md).")
    input_dropout: float = key(0.0, "Probability with which a whole input step is set to 0 while training.")
    feature_dropout: float = key(
        0.0, "Probability with which each single input value is set to 0 while training; the others are scaled up."
    )
    modality_dropout: float = key(
        0.0, "Probability with which a sample's audio or vision is hidden from the fusion while training."
    )
    text: TextConfig = section(TextConfig, "Context encoder of text, and the pretrained encoder before it.")
    audio: EncoderConfig = section(EncoderConfig, "Context encoder of audio.")
    vision: EncoderConfig = section(EncoderConfig, "Context encoder of vision.")
    fusion: FusionConfig = section(FusionConfig, "Fusion of the codes.")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Central moment discrepancy between the invariant codes of the modalities."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.")
    group: int | None = key(
        None, "Slots whose batch statistics are taken together; unset: largest divisor of train.global_batch up to 64."
    )
    moments: int = key(5, "Highest central moment compared.")


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Modality discriminator behind a gradient reversal."""

    weight: float = key(0.4, "Weight of the term; 0 turns it off.")
    scale: float = key(30.0, "Scale s of the additive-margin softmax.")
    margin: float = key(0.5, "Margin of the additive-margin softmax.")
    reverse: Literal["shared", "both"] = key(
        "shared", "Codes whose gradient is reversed: invariant ones, or private ones too, as in the release."
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Reconstruction of the encoded steps from the sum of both codes."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.")
    per: Literal["step", "pooled"] = key("step", "Each step from its own codes, or every step from their time mean.")


@dataclass(frozen=True, kw_only=True)
class SvrWeightConfig:
    """Weight of the sequential variation regularizer; its form is in the section `svr`."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.")
    warmup: float = key(0.0, "Share of the training steps, at the start, over which the weight rises linearly from 0.")
    decay: float = key(0.0, "Share of the training steps, at the end, over which it falls linearly to 0.")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and forms of the loss terms; the task's own has weight 1 unless `tasks` says otherwise."""

    tasks: dict[str, float] = key({}, "Weight by task name; tasks not named weigh 1.")
    regression: Literal["mse", "mae", "huber"] = key("mse", "Loss of regression tasks.")
    consistency: ConsistencyConfig = section(ConsistencyConfig, "Invariant codes of all modalities alike.")
    adversary: AdversaryConfig = section(AdversaryConfig, "Invariant codes not attributable to a modality.")
    reconstruction: ReconstructionConfig = section(ReconstructionConfig, "Codes keep the content.")
    svr: SvrWeightConfig = section(SvrWeightConfig, "Codes vary smoothly along the sequence.")


@dataclass(frozen=True, kw_only=True)
class SvrConfig:
    """The sequential variation regularizer."""

    kind: Literal["tv_l1", "js", "l2"] = key("tv_l1", "Variation of neighbouring codes: total, divergence or squared.")
    modalities: list[Modality] = key(["text", "audio", "vision"], "Modalities it acts on, of those in use.")
    codes: list[Literal["private", "shared"]] = key(["private", "shared"], "Codes it acts on.")
    temperature: float = key(1.0, "Temperature of the softmax of kind js.")
    over: Literal["sample", "batch"] = key(
        "sample", "Of each sample; or of the mean over a group of samples (kind js and preset release only)."
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation."""

    global_batch: int = key(64, "Samples of one optimizer step over all workers; the batch is the same on any cluster.")
    accumulation: int | None = key(None, "Micro-steps of one step; unset: as few as max_micro_batch allows.")
    max_micro_batch: int = key(256, "Most samples one worker holds in one micro-step.")
    max_steps: int | None = key(None, "Optimizer steps; overrides epochs.")
    epochs: float = key(10.0, "Passes over the training split.")
    optimizer: Literal["adamw", "muon"] = key(
        "adamw", "adamw; or muon for matrices, with AdamW for the rest (ZeRO stages 1 to 3, train.grad_clip=0)."
    )
    lr: float = key(1e-3, "Peak learning rate of AdamW.")
    muon_lr: float = key(0.02, "Peak learning rate of Muon, on the same schedule.")
    text_lr: float = key(2e-5, "Peak learning rate of a pretrained text encoder, on the same schedule.")
    weight_decay: float = key(0.01, "AdamW's decoupled weight decay, on matrices only.")
    betas: list[float] = key([0.9, 0.999], "AdamW's decay rates of the moments.")
    schedule: Literal["cosine", "linear", "constant"] = key("cosine", "Learning rate after the warm-up.")
    warmup: float = key(0.05, "Share of the training steps over which the rate rises linearly.")
    min_lr_ratio: float = key(0.0, "Final learning rate as a share of the peak.")
    grad_clip: float = key(1.0, "Largest norm of all gradients together; 0: no clipping.")
    dtype: Literal["float32", "bfloat16"] = key("float32", "Type of the forward pass; master weights are float32.")
    recompute: bool = key(
        False, "Compute the inside of encoder layers again in the backward pass instead of keeping it in memory."
    )
    torch_adam: bool = key(True, "PyTorch's AdamW; false: DeepSpeed's, which is compiled when training starts.")
    compile: Literal["none", "inductor", "aot_eager", "eager"] = key(
        "none", "torch.compile of model and losses, by this backend; the last two are for finding faults."
    )
    eval_every: str = key("1epoch", "How often the validation split is scored: 200steps, 1epoch.")
    monitor: str = key(
        "", "Validation metric that picks the best checkpoint; unset: the first task's (mae or accuracy)."
    )
    patience: int | None = key(None, "Evaluations without improvement before training stops; unset: never.")
    on_fault: Literal["raise", "skip", "rollback"] = key(
        "raise",
        "When loss or gradient is not finite, or the loss a spike: end the run; leave the step out; or go back to an "
        "older checkpoint and leave out all steps since.",
    )
    spike_factor: float | None = key(
        None, "A loss above so many times the median of the last 64 steps is a fault; unset: only what is not finite."
    )
    rollback_steps: int = key(1, "Least steps that on_fault=rollback goes back.")
    max_faults: int = key(10, "Faults that are skipped or rolled back before the run ends.")
    select: Literal["best", "last"] = key("best", "Checkpoint scored on test and returned.")


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """DeepSpeed ZeRO."""

    stage: Literal[0, 1, 2, 3] = key(
        1, "0: plain data parallel; 1: optimizer, 2: gradients, 3: parameters partitioned."
    )
    offload_optimizer: Literal["none", "cpu"] = key(
        "none", "cpu: the optimizer's state and its update in the host's memory (stages 1 to 3)."
    )
    offload_parameters: Literal["none", "cpu"] = key("none", "cpu: parameters in the host's memory (stage 3).")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints."""

    every: str = key("1epoch", "How often one is written: 200steps, 1epoch; the last step always writes one.")
    keep_last: int = key(2, "Newest complete checkpoints kept; the best one is kept besides.")
    keep_every: str = key("", "Checkpoints kept for good: those at multiples of it, as 1000steps; empty: none.")
    asynchronous: bool = key(True, "Whether training goes on while a checkpoint is written from a copy in memory.")
    max_failed: int = key(2, "Checkpoints in a row that cannot be written before the run ends.")


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """TensorBoard and console."""

    every: int = key(10, "Steps between two TensorBoard points.")
    console_s: float = key(1.0, "Least seconds between two progress lines.")
    svr_every: int = key(10, "Steps between two measurements of the regularizer's gradient; 0: none.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    run: RunConfig = section(RunConfig, "Where the run lives and how wide it is.")
    data: DataConfig = section(DataConfig, "Packed data sets and their order.")
    model: ModelConfig = section(ModelConfig, "The model.")
    loss: LossConfig = section(LossConfig, "Loss terms.")
    svr: SvrConfig = section(SvrConfig, "Sequential variation regularizer.")
    train: TrainConfig = section(TrainConfig, "Optimisation.")
    zero: ZeroConfig = section(ZeroConfig, "DeepSpeed ZeRO.")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "Checkpoints.")
    log: LogConfig = section(LogConfig, "TensorBoard and console.")
    deepspeed: dict[str, Any] = key({}, "Raw DeepSpeed keys, merged last; refused where they contradict the plan.")

    @property
    def group(self) -> int:
        """Slots whose batch statistics are taken together: as chosen, or what fits the batch."""
        if self.loss.consistency.group is not None:
            return self.loss.consistency.group
        return max(size for size in range(1, 65) if self.train.global_batch % size == 0)
