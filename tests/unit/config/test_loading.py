"""Configs from files and overrides: values, and reported errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from ivr_dist.config import Config
from ivr_dist.config.loading import from_dict, load_config, to_dict
from ivr_dist.config.validation import check
from ivr_dist.config.yaml_writer import to_yaml
from ivr_dist.errors import ConfigError
from tests.configs import MINIMAL, Writer, refused

# What is read.


def test_file_and_overrides_in_order(write: Writer) -> None:
    path = write(
        """
        # A comment.
        run: {dir: runs/a, seed: 7}
        data:
          train: data/mosi/train
          modalities: [text, audio]
        train:
          lr: 1e-4
          epochs: 3
          select: last
        """
    )
    config = load_config(path, ["train.epochs=4", "train.epochs=5", "zero.stage=2", "model.dropout=0"])
    assert config.run.dir == "runs/a"
    assert config.run.seed == 7
    assert config.data.modalities == ["text", "audio"]
    assert config.train.lr == 1e-4
    assert config.train.epochs == 5.0
    assert type(config.train.epochs) is float
    assert config.zero.stage == 2
    assert config.model.dropout == 0.0
    assert config.train.weight_decay == Config().train.weight_decay


def test_sections_and_empty_sections_merge(write: Writer) -> None:
    path = write("train:\nloss:\n  svr:\n    weight: 2\n")
    config = load_config(path, [*MINIMAL, "loss={svr: {warmup: 0.5}, regression: mae}"])
    assert (config.loss.svr.weight, config.loss.svr.warmup, config.loss.regression) == (2.0, 0.5, "mae")


def test_empty_file_is_the_defaults(write: Writer) -> None:
    assert load_config(write(""), MINIMAL) == load_config(None, MINIMAL)


def test_entries_of_mappings_are_set_one_by_one(write: Writer) -> None:
    path = write("loss:\n  tasks: {happy: 2}\ndeepspeed:\n  zero_optimization: {reduce_bucket_size: 5e5}\n")
    config = load_config(path, [*MINIMAL, "loss.tasks.sad=0.5", "deepspeed.zero_optimization.overlap_comm=off"])
    assert config.loss.tasks == {"happy": 2.0, "sad": 0.5}
    assert config.deepspeed == {"zero_optimization": {"reduce_bucket_size": 5e5, "overlap_comm": False}}
    assert load_config(path, [*MINIMAL, "loss.tasks={sad: 1}"]).loss.tasks == {"sad": 1.0}
    assert Config().loss.tasks == {}


def test_null_and_empty_values(write: Writer) -> None:
    path = write("data:\n  valid:\n  lanes: null\ntrain:\n  accumulation: ~\n  max_steps:\n")
    config = load_config(path, MINIMAL)
    assert config.data.valid == ""
    assert config.data.lanes is config.train.accumulation is config.train.max_steps is None
    assert load_config(path, [*MINIMAL, "data.test="]).data.test == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E4", 1e4), ("3", 3.0), ("1_000.5", 1000.5), (".5", 0.5), ("5.", 5.0), ("+2.5e+3", 2500.0)],
)
def test_floats_as_people_write_them(text: str, value: float) -> None:
    assert load_config(None, [*MINIMAL, f"loss.adversary.scale={text}"]).loss.adversary.scale == value


def test_a_seed_out_of_range_is_refused() -> None:
    assert load_config(None, [*MINIMAL, f"run.seed={2**64 - 1}"]).run.seed == 2**64 - 1
    for seed in (2**64, 10**30, -1):
        assert "run.seed" in refused(None, f"run.seed={seed}")


def test_yaml_1_1_traps() -> None:
    # YAML 1.1 reads these as 8, 90 (base 60), true and a date.
    assert load_config(None, [*MINIMAL, "run.seed=010"]).run.seed == 10
    assert "1:30" in refused(None, "run.seed=1:30")
    for text in ("on", "off", "yes", "No", "2024-01-01", "1.2.3", "e5"):
        assert load_config(None, [*MINIMAL, f"run.dir={text}"]).run.dir == text
    for text, value in (("on", True), ("yes", True), ("TRUE", True), ("off", False), ("no", False)):
        assert load_config(None, [*MINIMAL, f"run.audit={text}"]).run.audit is value
    assert load_config(None, [*MINIMAL, "run.dir='2024'"]).run.dir == "2024"
    assert load_config(None, [*MINIMAL, "model.text.kind=none"]).model.text.kind == "none"


def test_urls_need_no_quotes() -> None:
    assert load_config(None, [*MINIMAL, "data.train=s3://bucket/mosi/train"]).data.train == "s3://bucket/mosi/train"


# How faults are told.


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("lr=3", ["unknown key lr", "did you mean train.lr?", "Peak learning rate"]),
        ("train.lrr=3", ["unknown key train.lrr", "did you mean train.lr?"]),
        ("optimizer.lr=3", ["did you mean train.lr?"]),
        ("data.vald=x", ["did you mean data.valid?"]),
        ("chekpoint.every=1epoch", ["did you mean checkpoint.every"]),
        ("svr.weight=1", ["did you mean loss.svr.weight"]),
        (
            "weight=1",
            ["loss.consistency.weight", "loss.adversary.weight", "loss.reconstruction.weight or loss.svr.weight"],
        ),
        ("foo.bar=1", ["unknown key foo.bar", "use one of", "train, zero"]),
        ("train.qqq=1", ["unknown key train.qqq", "use one of train.global_batch, train.accumulation"]),
        ("train.lr.x=1", ["unknown key train.lr.x"]),
        ("train..lr=1", ["unknown key train..lr"]),
        ("train=3", ["train is a section, not 3", "such as train.global_batch"]),
        ("train.lr", ["needs a value", "train.lr=3e-4"]),
        ("train.lr=fast", ["train.lr: 'fast' is not a number", "Peak learning rate"]),
        ("train.lr='1e-4'", ["'1e-4' is not a number"]),
        ("train.lr=true", ["true is not a number"]),
        ("train.lr=.nan", ["not a finite number"]),
        ("train.lr=[1", ["not valid YAML"]),
        ("train.lr=", ["train.lr: empty is not a number"]),
        ("train.max_steps=None", ["'None' is not a whole number", "write null to leave it unset (train.max_steps"]),
        ("TRAIN.LR=1", ["unknown key TRAIN.LR", "did you mean train.lr?"]),
        ("train.max_steps=1e3", ["1e3 is not a whole number"]),
        ("train.max_steps=yes", ["yes is not a whole number"]),
        ("run.num_workers=1.5", ["1.5 is not a whole number"]),
        ("run.audit=1", ["1 is not true or false"]),
        ("run.dir=2024", ["2024 is not a string", '"2024" in quotes']),
        ("run.dir=null", ["null is not a string"]),
        ("train.eval_every=5", ["5 is not a string", "write it like 1epoch"]),
        ("train.schedule=cosin", ["'cosin' is not one of cosine, linear, constant", "did you mean cosine?"]),
        ("zero.stage=4", ["4 is not one of 0, 1, 2, 3"]),
        ("zero.stage=true", ["true is not one of 0, 1, 2, 3"]),
        ("data.modalities=text", ["'text' is not a list", "write [text]"]),
        ("data.modalities=[text, autio]", ["'autio' is not one of text, audio, vision", "did you mean audio?"]),
        ("loss.tasks.happy=much", ["loss.tasks.happy: 'much' is not a number"]),
        ("loss.tasks=[a]", ["['a'] is not a mapping of names to numbers"]),
        ("deepspeed=3", ["3 is not a mapping"]),
        ("run.dir=!!python/name:os.system x", ["the tag !!python/name:os.system is not allowed"]),
    ],
)
def test_wrong_overrides(override: str, parts: list[str]) -> None:
    text = refused(None, override)
    for part in [*parts, f"override {override!r}"]:
        assert part in text


@pytest.mark.parametrize(
    ("text", "line", "parts"),
    [
        ("train:\n  lr: 1\n  lrr: 2\n", 3, ["unknown key train.lrr", "did you mean train.lr?"]),
        ("train:\n  lr: 1\n\n  lr: 2\n", 4, ["lr is given twice", "run.yaml:2", "keep one"]),
        ("train: {}\nrun: {}\ntrain: {}\n", 3, ["train is given twice"]),
        ("deepspeed:\n  a:\n    b: 1\n    b: 2\n", 4, ["b is given twice"]),
        ("train:\n  lr: fast\n", 2, ["train.lr: 'fast' is not a number"]),
        ("data:\n  modalities:\n  - text\n  - smell\n", 2, ["'smell' is not one of text, audio, vision"]),
        ("train:\n  lr: [1\nrun:\n", 3, ["not valid YAML"]),
        ("train:\n\tlr: 1\n", 2, ["not valid YAML"]),
        ("train:\n  [a, b]: 1\n", 2, ["a key must be a name"]),
        ("run: !custom {}\n", 1, ["the tag !custom is not allowed"]),
        ("train: fast\n", 1, ["train is a section, not 'fast'"]),
        ("run:\n  dir: a\n---\nrun:\n  dir: b\n", 3, ["not valid YAML"]),
        (
            "train:\n  global_batch: 100\nloss: {consistency: {group: 64}}",
            2,
            ["loss.consistency.group = 64 does not divide train.global_batch = 100", "or leave it unset"],
        ),
    ],
)
def test_faults_in_files_name_the_line(write: Writer, text: str, line: int, parts: list[str]) -> None:
    path = write(text)
    found = refused(path)
    for part in [*parts, f"{path}:{line}"]:
        assert part in found


def test_a_dotted_key_and_its_section_are_not_both_given(write: Writer) -> None:
    path = write("train.lr: 1e-3\ntrain: {epochs: 2}\n")
    assert load_config(path, [*MINIMAL, "train={lr: 1e-4}"]).train.lr == 1e-4
    text = refused(write("train.lr: 1e-3\ntrain:\n  lr: 1e-4\n"), *MINIMAL)
    assert "train.lr is given twice, first at " in text and "keep one of them" in text


@pytest.mark.parametrize(("path", "text"), [("", "path of the config file is empty"), ("s3://b/c", "on this machine")])
def test_paths_that_name_no_file(path: str, text: str) -> None:
    assert text in refused(path)


def test_a_long_key_does_not_make_a_long_error(write: Writer) -> None:
    assert len(refused(write(f"{'x' * 999}: 1\n"))) < 500


def test_a_section_of_the_wrong_type_is_one_fault(write: Writer) -> None:
    text = refused(write("data:\n- train: a\n- valid: b\n"))
    assert "data is a section, not [{train: 'a'}, {valid: 'b'}]" in text and "empty" not in text


def test_files_that_are_no_configs(write: Writer, tmp_path: Path) -> None:
    assert "no such config file" in refused(str(tmp_path / "missing.yaml"))
    assert "cannot be read" in refused(str(tmp_path))
    assert "mapping of sections" in refused(write("- a\n"))
    assert "mapping of sections" in refused(write("3\n"))
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\x80")
    assert "line 1 is not UTF-8 text" in refused(str(tmp_path / "binary.yaml"))


def test_a_contradiction_names_both_lines(write: Writer) -> None:
    path = write("train:\n  global_batch: 96\n")
    text = refused(path, "loss.consistency.group=36")
    assert f"{path}:2" in text
    assert "override 'loss.consistency.group=36'" in text
    assert "set train.global_batch to 72 or 108, or loss.consistency.group to 32" in text


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["train.global_batch=32", "loss.consistency.group=64"],
            ["train.global_batch = 32 is smaller than loss.consistency.group = 64", "group=32"],
        ),
        (["train.global_batch=256", "train.accumulation=3"], ["does not divide the 4 groups", "one of 1, 2, 4"]),
        (["loss.consistency.group=1"], ["no batch statistics", "loss.consistency.weight=0"]),
        (["data.train="], ["data.train is empty"]),
        (["data.lanes=7"], ["data.lanes", "train.global_batch 64"]),
        (["data.shuffle_delay=-1"], ["data.shuffle_delay"]),
        (["data.modalities=[]"], ["data.modalities is empty"]),
        (["data.modalities=[text, text]"], ["data.modalities names text twice"]),
        (["data.cache_bytes=lots"], ["data.cache_bytes: 'lots' is not a size in bytes"]),
        (["train.eval_every=5weeks"], ["train.eval_every: '5weeks' is not an interval"]),
        (["checkpoint.every=0steps"], ["checkpoint.every: '0steps'", "1step"]),
        (["model.hidden=63"], ["model.hidden = 63 is odd", "64"]),
        (["model.hidden=30"], ["model.fusion.heads = 4 does not divide model.hidden = 30", "model.fusion.heads=3"]),
        (["model.audio.heads=3"], ["model.audio.heads = 3 does not divide", "a multiple of 3 such as 129"]),
        (
            ["data.modalities=[audio]", "model.text.pretrained=roberta-base"],
            ["model.text.pretrained = roberta-base encodes text, which data.modalities leaves out"],
        ),
        (["svr.modalities=[]"], ["svr.modalities = []", "loss.svr.weight=0"]),
        (["data.modalities=[text]", "svr.modalities=[vision]"], ["holds no modality in use"]),
        (["svr.codes=[]"], ["svr.codes is empty"]),
        (["train.select=best"], ["train.select = best needs a validation split", "train.select=last"]),
        (["train.patience=3"], ["train.patience = 3 needs a validation split"]),
        (["train.monitor=valid/mosi/mae"], ["train.monitor = valid/mosi/mae needs a validation split"]),
        (
            ["train.compile=inductor", "zero.stage=3"],
            ["train.compile = inductor cannot follow zero.stage = 3", "train.compile=none"],
        ),
        (["train.betas=[0.9]"], ["train.betas = [0.9] must be two numbers"]),
        (["train.betas=[0.9, 1.0]"], ["each at least 0 and below 1"]),
        (["loss.tasks.happy=-1"], ["loss.tasks.happy = -1.0"]),
        (["run.dir="], ["run.dir is empty"]),
        (["run.resume="], ["run.resume is empty"]),
    ],
)
def test_contradictions(overrides: list[str], parts: list[str]) -> None:
    text = refused(None, *overrides)
    for part in parts:
        assert part in text


@pytest.mark.parametrize(
    "override",
    [
        "run.num_workers=-1",
        "run.seed=-1",
        "run.max_failures=-2",
        "data.prefetch=0",
        "model.dropout=1.0",
        "model.input_dropout=-0.1",
        "model.hidden=0",
        "model.text.layers=0",
        "model.text.trained_layers=-1",
        "model.text.dropout=1",
        "train.text_lr=0",
        "model.vision.heads=0",
        "loss.consistency.weight=-1",
        "loss.consistency.group=0",
        "loss.adversary.scale=0",
        "loss.svr.warmup=1.1",
        "svr.temperature=0",
        "train.global_batch=0",
        "train.accumulation=0",
        "train.max_micro_batch=0",
        "train.max_steps=0",
        "train.epochs=0",
        "train.epochs=-1",
        "train.lr=0",
        "train.weight_decay=-1",
        "train.warmup=2",
        "train.min_lr_ratio=1.5",
        "train.grad_clip=-1",
        "train.patience=0",
        "checkpoint.keep_last=0",
        "log.every=0",
        "log.svr_every=-1",
    ],
)
def test_numbers_out_of_range(override: str) -> None:
    path = override.partition("=")[0]
    text = refused(None, override)
    assert f"{path} = " in text
    assert " must be " in text


def test_allowed_though_unusual() -> None:
    load_config(
        None,
        [
            *MINIMAL,
            "run.num_workers=0",
            "data.modalities=[text]",
            "svr.modalities=[text, vision]",
            "model.audio.heads=3",
            "train.grad_clip=0",
            "data.shuffle_delay=0",
            "data.cache_bytes=0B",
        ],
    )
    load_config(None, [*MINIMAL, "svr.modalities=[]", "svr.codes=[]", "loss.svr.weight=0"])
    load_config(None, [*MINIMAL, "model.text={kind: gru, heads: 3}"])


def test_check_of_a_config_made_in_code() -> None:
    config = Config()
    with pytest.raises(ConfigError, match=r"data.train is empty \(data.train\)"):
        check(config)


# Presets.


def test_preset_release_sets_what_the_user_does_not() -> None:
    config = load_config(None, [*MINIMAL, "model.preset=release"])
    assert (config.train.lr, config.train.schedule, config.train.warmup, config.train.epochs) == (
        1.7e-5,
        "constant",
        0,
        50,
    )
    assert (config.train.weight_decay, config.train.grad_clip) == (0, 0)
    assert (config.train.global_batch, config.loss.consistency.group) == (64, 64)
    assert (config.svr.kind, config.svr.over, config.svr.modalities) == ("js", "batch", ["vision"])
    assert (config.loss.adversary.reverse, config.loss.reconstruction.per) == ("both", "pooled")
    assert (config.model.audio.heads, config.model.vision.heads, config.model.fusion.gate) == (2, 1, "hard")
    assert config.data.standardize == []
    loss = config.loss
    weights = (loss.adversary.weight, loss.consistency.weight, loss.reconstruction.weight, loss.svr.weight)
    assert weights == (0.4, 1.0, 1.0, 1.0)


def test_the_users_values_go_before_the_presets(write: Writer) -> None:
    path = write("train: {lr: 1e-3, global_batch: 16}\nmodel: {preset: release, hidden: 64}\n")
    config = load_config(path, [*MINIMAL, "svr.modalities=[audio]", "loss.adversary.reverse=shared"])
    assert (config.train.lr, config.model.hidden, config.train.epochs) == (1e-3, 64, 50)
    assert config.loss.consistency.group == 16, "the release's batch statistics are over its batch"
    assert (config.svr.modalities, config.loss.adversary.reverse) == (["audio"], "shared")
    assert load_config(path, [*MINIMAL, "loss.consistency.group=8"]).loss.consistency.group == 8
    assert load_config(path, [*MINIMAL, "model.preset=ivr", "loss.consistency.group=16"]).svr == Config().svr


def test_presets_do_not_share_lists() -> None:
    first, second = (load_config(None, [*MINIMAL, "model.preset=release"]) for _ in range(2))
    first.svr.modalities.append("text")
    assert second.svr.modalities == ["vision"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.modalities=[text, audio]"], ["data.modalities lacks vision", "model.preset=ivr"]),
        (["model.fusion.gate=sigmoid"], ["model.fusion.gate = sigmoid is not the released model, which has hard"]),
        (["model.text.kind=gru"], ["model.text.kind = gru", "leave model.text.kind unset"]),
        (["model.audio.layers=2"], ["model.audio.layers = 2"]),
        (["model.vision.feedforward=2"], ["model.vision.feedforward is not read", "2048"]),
        (["model.modality_dropout=0.1"], ["model.modality_dropout = 0.1"]),
        (["svr.kind=l2"], ["svr.kind = l2 has none", "svr.over=sample"]),
        (["model.hidden=30"], ["model.fusion.heads = 4 does not divide model.hidden = 30"]),
    ],
)
def test_what_the_released_model_is_not_is_refused(overrides: list[str], expected: list[str]) -> None:
    text = refused(None, "model.preset=release", *overrides)
    assert [part for part in expected if part not in text] == []


def test_the_batchs_mean_variation_needs_one_length() -> None:
    assert "model.preset = release" in refused(None, "svr.over=batch", "svr.kind=js")
    load_config(None, [*MINIMAL, "svr.over=batch", "svr.kind=js", "loss.svr.weight=0"])


def test_a_release_config_reads_back(write: Writer) -> None:
    config = load_config(None, [*MINIMAL, "model.preset=release", "train.global_batch=32"])
    assert load_config(write(to_yaml(config))) == config
    assert from_dict(to_dict(config)) == config
