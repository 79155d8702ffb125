"""Every key of a run's config: type, default, range and meaning in one place.

A config is a YAML file of the sections below plus dotted overrides (`train.lr=3e-4`), read by `config.loading`. The
JSON schema, `ivr-dist config` and docs/config.md are generated from this module (decision 033).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ivr_dist.config.data_schema import DataConfig
from ivr_dist.config.declaration import ClassPath, Modality, key, section


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where a run is stored, and on how many workers it trains."""

    dir: str = key("runs/default", "Directory or fsspec URL of the run; every worker must reach it.")
    seed: int = key(0, "Seed of initial weights, data order and dropout.", at_least=0, at_most=2**64 - 1)
    num_workers: int | list[int] = key(
        2,
        "Training workers, one process (and GPU) each; 0: train in this process; [min, max]: as many as fit.",
        at_least=0,
    )
    threads: int | None = key(
        None,
        "CPU threads of a run with num_workers=0; unset: OMP_NUM_THREADS, or the number of idle processors.",
        at_least=1,
        at_most=4096,
    )
    resume: str = key("auto", "auto: continue the run's newest complete checkpoint; never: start over; or a path.")
    audit: bool = key(True, "Keep a ledger of the sample ids trained on, for `ivr-dist audit`.")
    max_failures: int = key(3, "Worker failures survived before the run gives up; -1 for any number.", at_least=-1)
    wait_s: float = key(300.0, "Seconds to wait for enough machines in the cluster at RAY_ADDRESS.", at_least=0)
    resize_s: float = key(60.0, "With [min, max]: seconds between checks for additional workers.", above=0)
    hang_after_s: float = key(
        300.0,
        "Watchdog: seconds without progress (and 20 usual steps) after which a hanging worker is ended; 0: never.",
        at_least=0,
    )
    callbacks: list[ClassPath] = key(
        [], "Callbacks, each package.module:Class or {class: ..., arguments}; instantiated on every worker."
    )

    @property
    def fewest_workers(self) -> int:
        """Workers needed to start; 0 trains in this process."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[0]

    @property
    def most_workers(self) -> int:
        """Workers requested."""
        return self.num_workers if isinstance(self.num_workers, int) else self.num_workers[-1]

    @property
    def world_sizes(self) -> list[int]:
        """Possible world sizes; training in this process is a world of 1."""
        return list(range(max(self.fewest_workers, 1), max(self.most_workers, 1) + 1))


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Context encoder of one modality, applied to its steps before the codes are computed."""

    kind: Literal["transformer", "gru", "none"] = key("transformer", "Context encoder over the steps.")
    layers: int = key(1, "Encoder layers.", at_least=1)
    heads: int = key(4, "Attention heads of a transformer encoder; must divide model.hidden.", at_least=1)
    feedforward: int = key(1, "Width of a transformer's feed-forward layer, in multiples of model.hidden.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class TextConfig(EncoderConfig):
    """Text: what the shards hold (feature vectors, or token ids with an embedding), or words from a pretrained encoder.

    With a pretrained encoder the transcript is read instead of the packed text, one step a word.
    """

    pretrained: str = key("", "Hugging Face encoder that reads the transcripts, a name or a folder; empty: none.")
    trained_layers: int | None = key(
        None, "Number of its last layers that are trained (fine-tuning), 0 for none; unset: all.", at_least=0
    )
    dropout: float | None = key(
        None, "Rate of every dropout in the pretrained encoder; unset: as it was trained.", at_least=0, below=1
    )
    cache_states: int = key(
        0,
        "Number of its first layers whose output is computed once for each text and kept on disk; they must not be "
        "trained; 0: none.",
        at_least=0,
    )
    states_dir: str = key(
        "", "Local directory of what cache_states keeps, shared by all workers; empty: text_states in each split."
    )


@dataclass(frozen=True, kw_only=True)
class FusionConfig:
    """Fusion of the codes of all modalities into one prediction."""

    heads: int = key(
        4, "Attention heads of the cross attention and of the fusion encoder; must divide model.hidden.", at_least=1
    )
    layers: int = key(1, "Transformer layers over the fused sequence; 0: none.", at_least=0)
    content: Literal["private", "shared", "both"] = key("private", "Codes whose content reaches the prediction.")
    gate: Literal["sigmoid", "straight_through", "hard", "none"] = key("sigmoid", "Per-step gate of each modality.")
    positions: bool = key(True, "Positional encoding: whether a step's content carries its position in the sequence.")
    pooling: Literal["mean", "max", "attention", "first"] = key(
        "mean", "How the fused steps become one vector; first: the newest step, in sequences that start with it."
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model."""

    preset: Literal["ivr", "release"] = key(
        "ivr", "Which model: ivr, the corrected method; release, the authors' released one, and its other defaults."
    )
    class_: ClassPath = key("", "Your own model, package.module:Class or {class: ..., arguments}; empty: the preset.")
    size: Literal["base", "large", "xl"] = key(
        "base", "Width, layers and heads of preset ivr, where their own keys are unset: h = 128, 512 or 1024."
    )
    hidden: int = key(128, "Width h of codes and fusion.", at_least=2)
    dropout: float | None = key(
        None, "One rate for every dropout; unset: each its own (see docs/method.md).", at_least=0, below=1
    )
    input_dropout: float = key(
        0.0, "Probability with which a whole input step is set to 0 while training.", at_least=0, below=1
    )
    feature_dropout: float = key(
        0.0,
        "Probability with which each single input value is set to 0 while training; the others are scaled up.",
        at_least=0,
        below=1,
    )
    modality_dropout: float = key(
        0.0,
        "Probability with which a sample's audio or vision is hidden from the fusion while training.",
        at_least=0,
        below=1,
    )
    text: TextConfig = section(TextConfig, "Context encoder of text, and the pretrained encoder before it.")
    audio: EncoderConfig = section(EncoderConfig, "Context encoder of audio.")
    vision: EncoderConfig = section(EncoderConfig, "Context encoder of vision.")
    fusion: FusionConfig = section(FusionConfig, "Fusion of the codes.")


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Central moment discrepancy between the invariant codes of the modalities."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.", at_least=0)
    group: int | None = key(
        None,
        "Slots whose batch statistics are taken together; unset: largest divisor of train.global_batch up to 64.",
        at_least=1,
    )
    moments: int = key(5, "Highest central moment compared.", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AdversaryConfig:
    """Modality discriminator behind a gradient reversal."""

    weight: float = key(0.4, "Weight of the term; 0 turns it off.", at_least=0)
    scale: float = key(30.0, "Scale s of the additive-margin softmax.", above=0)
    margin: float = key(0.5, "Margin of the additive-margin softmax.", at_least=0)
    reverse: Literal["shared", "both"] = key(
        "shared", "Codes whose gradient is reversed: invariant ones, or private ones too, as in the release."
    )


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """Reconstruction of the encoded steps from the sum of both codes."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.", at_least=0)
    per: Literal["step", "pooled"] = key("step", "Each step from its own codes, or every step from their time mean.")


@dataclass(frozen=True, kw_only=True)
class SvrWeightConfig:
    """Weight of the sequential variation regularizer; its form is in the section `svr`."""

    weight: float = key(1.0, "Weight of the term; 0 turns it off.", at_least=0)
    warmup: float = key(
        0.0,
        "Share of the training steps, at the start, over which the weight rises linearly from 0.",
        at_least=0,
        at_most=1,
    )
    decay: float = key(
        0.0, "Share of the training steps, at the end, over which it falls linearly to 0.", at_least=0, at_most=1
    )


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights and forms of the loss terms; the task's own has weight 1 unless `tasks` says otherwise."""

    tasks: dict[str, float] = key({}, "Weight by task name; tasks not named weigh 1.", at_least=0)
    regression: Literal["mse", "mae", "huber"] = key("mse", "Loss of regression tasks.")
    scale: Literal["native", "unit"] | None = key(
        None, "Range of regression labels in the loss: as they are, or mapped to [-1, 1]; unset: unit in a pool only."
    )
    consistency: ConsistencyConfig = section(ConsistencyConfig, "Similar invariant codes in all modalities.")
    adversary: AdversaryConfig = section(AdversaryConfig, "Invariant codes not attributable to a modality.")
    reconstruction: ReconstructionConfig = section(ReconstructionConfig, "Codes keep the content.")
    svr: SvrWeightConfig = section(SvrWeightConfig, "Codes vary smoothly along the sequence.")
    extra: dict[str, ClassPath] = key(
        {}, "Your own terms by name, each package.module:Class or {class: ..., weight: 1, arguments}."
    )


@dataclass(frozen=True, kw_only=True)
class SvrConfig:
    """The sequential variation regularizer."""

    kind: Literal["tv_l1", "js", "l2"] = key("tv_l1", "Variation of neighboring codes: total, divergence or squared.")
    modalities: list[Modality] = key(["text", "audio", "vision"], "Modalities it acts on, of those in use.")
    codes: list[Literal["private", "shared"]] = key(["private", "shared"], "Codes it acts on.")
    temperature: float = key(1.0, "Temperature of the softmax of kind js.", above=0)
    over: Literal["sample", "batch"] = key(
        "sample", "Of each sample; or of the mean over a group of samples (kind js and preset release only)."
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimization."""

    global_batch: int = key(
        64, "Samples of one optimizer step over all workers; the batch is the same on any cluster.", at_least=1
    )
    accumulation: int | None = key(
        None, "Gradient accumulation: micro-steps of one step; unset: as few as max_micro_batch allows.", at_least=1
    )
    max_micro_batch: int = key(256, "Most samples one worker holds in one micro-step.", at_least=1)
    max_steps: int | None = key(None, "Optimizer steps; overrides epochs.", at_least=1)
    epochs: float = key(10.0, "Passes over the training split.", above=0)
    init_from: str = key("", "Checkpoint or run whose weights a new run starts from; empty: random weights.")
    new_heads: bool = key(False, "Whether all heads of a run with init_from start from random weights.")
    init_statistics: Literal["kept", "own"] = key(
        "kept", "Statistics that standardize the inputs of a run with init_from: the checkpoint's, or the data's own."
    )
    freeze: list[str] = key([], "Prefixes of the names of parameters that are not trained, such as encoders.")
    optimizer: Literal["adamw", "muon"] = key(
        "adamw", "adamw; or muon for matrices, with AdamW for the rest (ZeRO stages 1 to 3, train.grad_clip=0)."
    )
    lr: float = key(1e-3, "Peak learning rate of AdamW.", above=0)
    muon_lr: float = key(0.02, "Peak learning rate of Muon, on the same schedule.", above=0)
    text_lr: float = key(2e-5, "Peak learning rate of a pretrained text encoder, on the same schedule.", above=0)
    weight_decay: float = key(0.01, "AdamW's decoupled weight decay, on matrices only.", at_least=0)
    betas: list[float] = key([0.9, 0.999], "AdamW's decay rates of the moments.", at_least=0, below=1)
    schedule: Literal["cosine", "linear", "constant"] = key("cosine", "Learning rate after the warm-up.")
    warmup: float = key(0.05, "Share of the training steps over which the rate rises linearly.", at_least=0, at_most=1)
    min_lr_ratio: float = key(0.0, "Final learning rate as a share of the peak.", at_least=0, at_most=1)
    grad_clip: float = key(
        1.0, "Gradient clipping: largest norm of all gradients together; 0: no clipping.", at_least=0
    )
    dtype: Literal["float32", "bfloat16"] = key(
        "float32", "Type of the forward pass (bfloat16: mixed precision); master weights are float32."
    )
    recompute: bool = key(
        False,
        "Activation checkpointing: recompute the inside of encoder layers in the backward pass instead of keeping it.",
    )
    torch_adam: bool = key(True, "PyTorch's AdamW; false: DeepSpeed's, which is compiled when training starts.")
    compile: Literal["none", "inductor", "aot_eager", "eager"] = key(
        "none", "Backend of torch.compile for model and losses; aot_eager and eager are for debugging."
    )
    eval_every: str = key("1epoch", "How often the validation split is scored: 200steps, 1epoch.")
    monitor: str = key(
        "", "Validation metric that picks the best checkpoint; unset: the first task's (mae or accuracy)."
    )
    patience: int | None = key(
        None, "Early stopping: evaluations without improvement before training stops; unset: never.", at_least=1
    )
    on_fault: Literal["raise", "skip", "rollback"] = key(
        "raise",
        "When loss or gradient is not finite, or the loss spikes: end the run; skip the step; or roll back to an older "
        "checkpoint and skip all steps since.",
    )
    spike_factor: float | None = key(
        None,
        "A loss above this multiple of the median of the last 64 steps is a fault; unset: only what is not finite.",
        above=1,
    )
    rollback_steps: int = key(1, "Fewest steps that on_fault=rollback goes back.", at_least=1)
    max_faults: int = key(10, "Most faults skipped or rolled back before the run ends.", at_least=0)
    select: Literal["best", "last"] = key("best", "Checkpoint scored on test and returned.")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Scoring."""

    metrics: dict[str, ClassPath] = key(
        {}, "Your own metrics by name, each package.module:Class or {class: ..., arguments}."
    )


@dataclass(frozen=True, kw_only=True)
class ZeroConfig:
    """DeepSpeed ZeRO."""

    stage: Literal[0, 1, 2, 3] = key(
        1, "0: plain data parallel; 1: optimizer, 2: gradients, 3: parameters partitioned."
    )
    offload_optimizer: Literal["none", "cpu"] = key(
        "none", "cpu: the optimizer's state and its update in host memory (stages 1 to 3)."
    )
    offload_parameters: Literal["none", "cpu"] = key("none", "cpu: parameters in host memory (stage 3).")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints."""

    every: str = key("1epoch", "How often one is written: 200steps, 1epoch; the last step always writes one.")
    keep_last: int = key(2, "Newest complete checkpoints kept, in addition to the best one.", at_least=1)
    keep_every: str = key("", "Checkpoints never deleted: those at multiples of it, such as 1000steps; empty: none.")
    asynchronous: bool = key(
        True, "Whether training continues while a checkpoint is written from a copy in host memory."
    )
    max_failed: int = key(2, "Most checkpoints in a row that fail to be written before the run ends.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """TensorBoard and console."""

    every: int = key(10, "Steps between TensorBoard points.", at_least=1)
    console_s: float = key(1.0, "Fewest seconds between progress lines.", at_least=0)
    svr_every: int = key(10, "Steps between measurements of the regularizer's gradient; 0: none.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    run: RunConfig = section(RunConfig, "Where the run is stored, and on how many workers it trains.")
    data: DataConfig = section(DataConfig, "Packed data sets and their order.")
    model: ModelConfig = section(ModelConfig, "The model.")
    loss: LossConfig = section(LossConfig, "Loss terms.")
    svr: SvrConfig = section(SvrConfig, "Sequential variation regularizer.")
    train: TrainConfig = section(TrainConfig, "Optimization.")
    eval: EvalConfig = section(EvalConfig, "Scoring.")
    zero: ZeroConfig = section(ZeroConfig, "DeepSpeed ZeRO.")
    checkpoint: CheckpointConfig = section(CheckpointConfig, "Checkpoints.")
    log: LogConfig = section(LogConfig, "TensorBoard and console.")
    deepspeed: dict[str, Any] = key({}, "Raw DeepSpeed keys, merged last; refused where they contradict the plan.")

    @property
    def group(self) -> int:
        """Slots whose batch statistics are taken together: as set, or the default for the batch.

        In a pool statistics are taken within a corpus: the default is the whole batch, so that small corpora have
        enough samples.
        """
        if self.loss.consistency.group is not None:
            return self.loss.consistency.group
        if len([corpus for corpus in self.data.corpora.values() if corpus is not None]) > 1:
            return self.train.global_batch
        return max(size for size in range(1, 65) if self.train.global_batch % size == 0)
