"""Synonyms: names of config keys in other frameworks, so that the error for an unknown key suggests the right one.

Looked up by `suggestions` without regard to case, and with or without a section: `train.learning_rate`,
`learning_rate` and `optimizer.learning-rate` are the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Synonym:
    """The config key that corresponds to a name of another framework."""

    key: str
    value: str = ""
    """The value to set, where the name implies one; `note` then explains it."""
    note: str = ""
    """The difference from other frameworks; empty: none."""


def _names(key: str, names: str, value: str = "", note: str = "") -> dict[str, Synonym]:
    return {name: Synonym(key, value, note) for name in names.split()}


_PER_DEVICE = "over all workers, not of each device: the global batch is split over workers and micro-steps"
_SHARE = "a share of the training steps from 0 to 1, not a number of steps"
_INTERVAL = "an interval such as 200steps or 1epoch"
_BFLOAT16 = "mixed precision in bfloat16, which needs no loss scaling; there is no float16"

SYNONYMS: Mapping[str, Synonym] = {
    **_names("run.dir", "output_dir out_dir save_dir log_dir logging_dir default_root_dir work_dir workdir run_dir"),
    **_names("run.seed", "random_seed manual_seed data_seed seed_everything"),
    **_names("run.num_workers", "world_size num_processes nproc_per_node num_gpus n_gpus gpus devices num_nodes"),
    **_names("run.num_workers", "num_workers", note="training workers; data are read by threads, see data.prefetch"),
    **_names("data.prefetch", "dataloader_num_workers num_dataloader_workers loader_workers prefetch_factor"),
    **_names("run.threads", "num_threads n_threads torch_threads omp_num_threads"),
    **_names("run.resume", "resume_from_checkpoint resume_from ckpt_path checkpoint_path auto_resume"),
    **_names("run.max_failures", "max_restarts max_retries"),
    **_names("data.train", "train_data train_path train_file train_dir train_dataset data_dir data_path dataset_path"),
    **_names("data.valid", "val valid_data val_data val_path val_file validation_file eval_dataset dev validation"),
    **_names("data.test", "test_data test_path test_file test_dir test_dataset"),
    **_names("data.shuffle_delay", "shuffle shuffle_buffer shuffle_buffer_size buffer_size shuffle_size"),
    **_names("data.by_length", "group_by_length length_grouped bucket_by_length sort_by_length"),
    **_names("data.standardize", "normalize normalise standardise standardization normalization"),
    **_names("data.cache_bytes", "cache_size cache_limit"),
    **_names("model.hidden", "hidden_size hidden_dim d_model embed_dim n_embd dim model_dim embedding_size width"),
    **_names("model.dropout", "dropout_rate dropout_prob hidden_dropout_prob dropout_p"),
    **_names("model.fusion.layers", "num_layers n_layers n_layer num_hidden_layers depth"),
    **_names("model.fusion.heads", "num_heads n_heads n_head num_attention_heads nhead attention_heads"),
    **_names("model.text.pretrained", "model_name model_name_or_path pretrained_model text_encoder bert_model"),
    **_names("train.global_batch", "batch_size train_batch_size total_batch_size effective_batch_size bsz"),
    **_names(
        "train.global_batch",
        "per_device_train_batch_size per_device_batch_size device_batch_size train_micro_batch_size_per_gpu",
        note=_PER_DEVICE,
    ),
    **_names("train.max_micro_batch", "micro_batch_size micro_batch microbatch_size device_train_microbatch_size"),
    **_names(
        "train.accumulation",
        "gradient_accumulation_steps accumulate_grad_batches grad_accum grad_accum_steps gradient_accumulation",
    ),
    **_names("train.lr", "learning_rate base_lr max_lr peak_lr initial_lr adam_lr"),
    **_names("train.text_lr", "bert_lr encoder_lr backbone_lr lr_bert text_learning_rate"),
    **_names("train.weight_decay", "wd l2 l2_penalty adam_weight_decay"),
    **_names("train.betas", "adam_betas beta1 beta2 adam_beta1 adam_beta2", note="a list of both: [0.9, 0.999]"),
    **_names("train.optimizer", "optim optimizer_type optimiser optimizer_name"),
    **_names("train.schedule", "lr_scheduler lr_scheduler_type lr_schedule scheduler scheduler_type lr_decay_style"),
    **_names("train.warmup", "warmup_ratio warmup_fraction warmup_proportion lr_warmup"),
    **_names("train.warmup", "warmup_steps num_warmup_steps warmup_iters warmup_epochs lr_warmup_steps", note=_SHARE),
    **_names("train.min_lr_ratio", "min_lr min_learning_rate eta_min lr_min", note="a share of train.lr from 0 to 1"),
    **_names(
        "train.grad_clip",
        "gradient_clipping gradient_clip_val max_grad_norm clip_grad_norm grad_norm clip_norm clip grad_clip_norm",
    ),
    **_names("train.epochs", "num_train_epochs num_epochs n_epochs max_epochs max_epoch epoch"),
    **_names("train.max_steps", "num_steps total_steps train_steps max_iters num_train_steps max_train_steps steps"),
    **_names("train.dtype", "fp16 bf16 amp mixed_precision precision half torch_autocast", "bfloat16", _BFLOAT16),
    **_names("train.dtype", "torch_dtype param_dtype compute_dtype"),
    **_names("train.recompute", "gradient_checkpointing activation_checkpointing checkpoint_activations"),
    **_names("train.compile", "torch_compile compile_model torchcompile", "inductor", "a backend of torch.compile"),
    **_names("train.eval_every", "eval_steps eval_interval val_check_interval eval_freq", note=_INTERVAL),
    **_names("train.eval_every", "evaluation_strategy eval_strategy check_val_every_n_epoch", note=_INTERVAL),
    **_names("train.monitor", "metric_for_best_model early_stopping_metric best_metric monitor_metric"),
    **_names("train.patience", "early_stopping early_stopping_patience early_stop early_stop_patience"),
    **_names("train.select", "load_best_model_at_end save_best keep_best"),
    **_names("train.on_fault", "skip_nan nan_policy detect_anomaly terminate_on_nan on_nan"),
    **_names("checkpoint.every", "save_every save_steps save_interval save_freq save_strategy", note=_INTERVAL),
    **_names("checkpoint.every", "checkpoint_interval checkpoint_every ckpt_every ckpt_interval", note=_INTERVAL),
    **_names("checkpoint.keep_last", "save_total_limit keep_checkpoints max_to_keep save_top_k num_checkpoints"),
    **_names("checkpoint.asynchronous", "async_save async_checkpoint async_checkpointing"),
    **_names("log.every", "logging_steps log_every_n_steps log_interval log_every log_freq log_steps"),
    **_names("zero.stage", "zero_stage zero_optimization sharding_strategy fsdp"),
    **_names("zero.offload_optimizer", "cpu_offload offload", "cpu", "the optimizer's state and its update, by ZeRO"),
    **_names("loss.svr.weight", "svr_weight lambda_svr smoothness_weight tv_weight"),
    **_names("loss.tasks", "task_weights loss_weights"),
    **_names("loss.regression", "loss_fn criterion loss_type"),
}


def find_synonym(path: str) -> Synonym | None:
    """Find the key for a name that other frameworks use; None if no framework is known to use it.

    Args:
        path: The name, with or without a section.
    """
    return SYNONYMS.get(path.rpartition(".")[2].lower().replace("-", "_"))
