"""The public API returns what the commands compute, prints nothing, and imports only what it documents."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ivr_dist as ivr
from ivr_dist.cli import main as cli
from ivr_dist.config.loading import load_config, with_overrides
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.evaluation.evaluate import Predictions
from ivr_dist.evaluation.score_checkpoint import score_checkpoint
from ivr_dist.inference.predict import _table
from ivr_dist.packing.pack import pack
from ivr_dist.run.events import Event
from ivr_dist.run.ledger import read_lineage
from ivr_dist.run.paths import AUDIT
from tests.repository import ROOT


class Recorder:
    """A console that keeps the events, and asks to stop when `stop` is set."""

    def __init__(self, stop: bool = False) -> None:
        self.events: list[Event] = []
        self.stop = stop

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def stop_requested(self) -> bool:
        return self.stop


def test_a_split_is_a_sequence(workspace: Path) -> None:
    with ivr.open_split("data/synth/train") as split:
        assert len(split) == 56
        assert split[-1].id == split.ids[-1] == list(split)[-1].id
        assert [sample.id for sample in split[2:9:3]] == split.ids[2:9:3]
        sample = split[0]
        assert sample.text is not None and sample.text.shape[1] == split.features["text"].dim
        assert sample.labels["sentiment"] == split.labels["sentiment"][0]
        assert sample.words == tuple(str(sample.transcript).split())
        assert split.profile().samples == 56
        for position in (56, -57):
            with pytest.raises(IndexError, match=f"there is no sample {position} in a split of 56 samples"):
                split[position]


def test_a_split_that_is_not_there_is_refused(workspace: Path) -> None:
    with pytest.raises(ivr.DataError, match=r"no manifest\.json"):
        ivr.open_split("data/synth")


def test_batches_come_in_the_order_of_training(workspace: Path) -> None:
    """The audit ledger holds what the run has trained on."""
    trained: dict[int, list[str]] = {
        record["step"]: record["ids"] for _, _, record in read_lineage("runs/synth", AUDIT)
    }
    batches = list(ivr.open_split("data/synth/train").batches(global_batch=16, seed=0, epoch=0))
    assert [list(batch.keys) for batch in batches] == [trained[step] for step in (1, 2, 3, 4)]
    (again,) = list(ivr.open_split("data/synth/train").batches(global_batch=56, seed=3, epoch=2))
    assert sorted(again.keys) == sorted(ivr.open_split("data/synth/train").ids)


def test_batches_of_another_split_are_scaled_by_the_statistics_of_train(workspace: Path) -> None:
    train, valid = ivr.open_split("data/synth/train"), ivr.open_split("data/synth/valid")
    raw = next(valid.batches(global_batch=12))
    scaled = next(valid.batches(global_batch=12, statistics=train))
    mean, deviation = train.manifest.statistics["audio"].mean, train.manifest.statistics["audio"].std
    part, other = raw.modalities["audio"], scaled.modalities["audio"]
    expected = (part.features[part.mask].numpy() - np.float32(mean)) / np.float32(deviation)
    np.testing.assert_allclose(other.features[other.mask].numpy(), expected, rtol=1e-6)


def test_evaluate_and_predict_agree_with_the_command(workspace: Path) -> None:
    model = ivr.load("runs/synth")
    scores = ivr.evaluate(model, "data/synth/test")
    assert scores == score_checkpoint(model.checkpoint, "data/synth/test", 1)
    assert scores == ivr.open_run("runs/synth").status().metrics["test"]
    table = ivr.predict(model, ivr.open_split("data/synth/test"))
    errors = np.abs(table.predictions["sentiment"] - table.labels["sentiment"])
    assert errors.mean() == pytest.approx(scores["synth/mae"])
    assert table.keys == ivr.open_split("data/synth/test").ids
    assert set(table.to_dict()) == {"id", "sentiment", "sentiment_label"}


def test_samples_in_memory_are_predicted_as_those_of_a_split(workspace: Path) -> None:
    split = ivr.open_split("data/synth/test")
    expected = ivr.predict("runs/synth", split)
    for samples in (list(split), [{**sample.arrays, "id": sample.id} for sample in split]):
        table = ivr.predict("runs/synth", samples)
        assert table.keys == expected.keys
        np.testing.assert_allclose(table.predictions["sentiment"], expected.predictions["sentiment"], atol=1e-5)
    assert np.isnan(table.labels["sentiment"]).all()


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"audio": np.zeros((4, 5))}, r"audio of sample 0 is float64 \[4, 5\], the model reads finite numbers"),
        ({"audio": np.full((4, 12), np.nan)}, "the model reads finite numbers"),
        ({"audio": np.full((4, 12), 1e300)}, r"float64 \[4, 12\] with values that are not finite in float32"),
        ({"audio": [[0] * 12, [0] * 11]}, "audio of sample 0 is of type list and no array"),
        ({"audio": None}, "sample 0 has nothing that the model reads; give at least one of: text, audio"),
        ({"audio": np.zeros((4, 12)), "vison": 1}, "sample 0 has the unknown key vison; give arrays as text, audio"),
        ({"audio": np.zeros((4, 12)), "transcript": 5}, "transcript of sample 0 is of type int; give a text"),
        ("audio", "sample 0 is of type str; give a mapping"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(workspace: Path, sample: dict[str, Any], said: str) -> None:
    with pytest.raises(ivr.DataError, match=said):
        ivr.predict("runs/synth", [sample])


def test_arrays_of_any_library_are_predicted(workspace: Path) -> None:
    import torch

    values = np.ones((3, 12))
    samples = [
        {"audio": array}
        for array in (values, values.tolist(), torch.ones(3, 12, requires_grad=True), torch.ones(3, 12).bfloat16())
    ]
    first, *others = ivr.predict("runs/synth", samples).predictions["sentiment"]
    assert others == [first] * 3


@pytest.mark.parametrize("data", [{"audio": np.zeros((4, 12))}, None, 3])
def test_one_sample_is_no_list_of_samples(workspace: Path, data: Any) -> None:
    with pytest.raises(ivr.DataError, match="give a list of samples, or a packed split"):
        ivr.predict("runs/synth", data)


def test_two_runs_at_once_in_one_process_are_refused(workspace: Path, tmp_path: Path) -> None:
    from ivr_dist.orchestration import worker

    with worker._only_one_at_a_time(), pytest.raises(ivr.UserError, match="another thread of this process is training"):
        ivr.train("configs/synth.yaml", {"run.dir": tmp_path / "run"})
    assert ivr.train("configs/synth.yaml", {"run.dir": tmp_path / "run", "train.max_steps": 1}).trained


@pytest.mark.parametrize("opening", [ivr.open_split, ivr.open_run, ivr.load, ivr.load_config])
def test_an_empty_path_is_refused(opening: Callable[[str], object]) -> None:
    with pytest.raises(ivr.UserError, match="the path is empty"):
        opening("")


def test_batches_that_are_not_defined_are_refused(workspace: Path) -> None:
    split = ivr.open_split("data/synth/train")
    for wrong in ({"global_batch": 0}, {"global_batch": 8, "seed": -1}, {"global_batch": 8, "epoch": -1}):
        with pytest.raises(ivr.UserError, match="epoch and seed at least 0"):
            split.batches(**wrong)  # type: ignore[arg-type]
    assert list(next(split.batches(global_batch=8, modalities="text")).modalities) == ["text"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5])
def test_a_device_that_is_not_there_is_refused(workspace: Path, device: Any) -> None:
    with pytest.raises(ivr.UserError, match=f"the device {device} cannot be used: .*; give cpu"):
        ivr.load("runs/synth", device=device)


def test_objects_can_be_pickled_compared_and_printed(workspace: Path) -> None:
    split, run, model = ivr.open_split("data/synth/test"), ivr.open_run("runs/synth"), ivr.load("runs/synth")
    table = ivr.predict(model, split)
    assert pickle.loads(pickle.dumps(split)).ids == split.ids
    assert pickle.loads(pickle.dumps(run)).config == run.config
    assert pickle.loads(pickle.dumps(run.result())) == run.result()
    assert pickle.loads(pickle.dumps(table)).keys == table.keys
    again = ivr.predict(pickle.loads(pickle.dumps(model)), split)
    assert again.to_dict() == table.to_dict() and again != table
    assert len({model, table, split[0]}) == 3
    assert repr(table) == "<predictions of sentiment for 12 samples>"
    assert repr(split[0]).startswith(f"<sample {split[0].id}: text [") and len(repr(split[0])) < 120


def test_a_closed_split_begins_again(workspace: Path) -> None:
    split = ivr.open_split("data/synth/test")
    first = split[0].id
    split.close()
    split.close()
    assert split[0].id == first and len(list(split)) == 12


def test_overrides_are_a_list_or_a_mapping(workspace: Path) -> None:
    given = {
        "run.dir": Path("runs/a b"),
        "train.lr": np.float32(0.5),
        "data.modalities": ("text",),
        "train.max_steps": None,
    }
    config = ivr.load_config("configs/synth.yaml", {**given, "train.select": "last", "loss.tasks": {"mood": 2}})
    assert (config.run.dir, config.train.lr, config.data.modalities) == ("runs/a b", 0.5, ["text"])
    assert (config.train.max_steps, config.loss.tasks) == (None, {"mood": 2.0})
    with pytest.raises(
        ivr.ConfigError, match=r"overrides are a list, not the text 'train\.lr=1'; write it in brackets"
    ):
        ivr.load_config("configs/synth.yaml", "train.lr=1")
    with pytest.raises(ivr.ConfigError, match=r"data\.modalities has a value of type set"):
        ivr.load_config("configs/synth.yaml", {"data.modalities": {"text"}})
    with pytest.raises(ivr.ConfigError, match="the override 5 is not a text"):
        ivr.load_config("configs/synth.yaml", [5])  # type: ignore[list-item]


def test_a_run_of_several_seeds_is_several_runs(tmp_path: Path) -> None:
    for seed in (10, 2):
        (tmp_path / f"seed-{seed}").mkdir()
    for opening in (ivr.open_run, ivr.load):
        with pytest.raises(ivr.UserError, match=r"no run here, but runs of single seeds below it .*such as .*/seed-2$"):
            opening(tmp_path)


def test_what_is_no_model_is_refused(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ivr.UserError, match="no model here"):
        ivr.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ivr.UserError, match="exported models cannot be loaded yet"):
        ivr.load(tmp_path)
    with pytest.raises(ivr.UserError, match="no run here"):
        ivr.open_run(tmp_path)


def test_a_checkpoint_loads_like_its_run(workspace: Path) -> None:
    run = ivr.open_run("runs/synth")
    (checkpoint,) = run.checkpoints()
    assert ivr.load(checkpoint.url).checkpoint == ivr.load(run.url).checkpoint == checkpoint.url
    assert run.config.train.global_batch == 16
    result = run.result()
    assert result is not None and result.checkpoint == checkpoint.url
    assert [record["step"] for record in run.history() if "loss" in record] == [1, 2, 3, 4]
    assert run.loss_curve() == result.loss_curve


def test_evaluate_takes_the_checkpoint_that_a_run_selected_else_its_newest(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ivr.train("configs/synth.yaml", [f"run.dir={tmp_path}/run", "checkpoint.every=2steps", "train.select=last"])
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    newest = result["checkpoint"]
    older = next(path for path in (tmp_path / "run" / "checkpoints").iterdir() if str(path) != newest)
    # Moved since: the recorded path leads nowhere. An older checkpoint stands for the best one.
    moved = tmp_path / "moved"
    (tmp_path / "run").rename(moved)
    selected = moved / "checkpoints" / older.name
    (moved / "result.json").write_text(json.dumps({**result, "checkpoint": str(older)}))

    def evaluated(path: str) -> tuple[dict[str, Any], str]:
        assert cli.main(["evaluate", path, "--split", "valid", "--json"]) == 0
        said = capsys.readouterr()
        return json.loads(said.out), said.err

    direct, said = evaluated(str(selected))
    assert "the checkpoint is" not in said
    assert evaluated(str(moved)) == (direct, f"note: the checkpoint is {selected}, which the run selected\n")
    (moved / "result.json").unlink()
    found, said = evaluated(str(moved))
    assert found["checkpoint"].endswith(Path(newest).name) and found["metrics"] != direct["metrics"]
    assert said.endswith(f"{Path(newest).name}, the newest one of a run without a result\n")
    assert cli.main(["evaluate", str(moved / "checkpoints" / "step-00000099.a01")]) == 1
    assert "no checkpoint here" in capsys.readouterr().err


def test_training_repeats_itself_in_one_process_and_prints_nothing(
    workspace: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = ivr.open_run("runs/synth").loss_curve()
    for stage in (0, 3):
        result = ivr.train("configs/synth.yaml", [f"run.dir={tmp_path}/{stage}", f"zero.stage={stage}"])
        assert result.trained
        np.testing.assert_allclose([loss for _, loss in result.loss_curve], [loss for _, loss in first], rtol=1e-5)
    config = replace(load_config("configs/synth.yaml"), run=load_config("configs/synth.yaml").run)
    recorder = Recorder()
    result = ivr.train(config, [f"run.dir={tmp_path}/again"], console=recorder)
    assert result.loss_curve == first
    assert recorder.events
    assert not ivr.train(config, [f"run.dir={tmp_path}/again"]).trained
    assert capfd.readouterr() == ("", "")
    ivr.train(config, [f"run.dir={tmp_path}/told", "train.max_steps=1"], progress=True)
    assert "step 1/1" in capfd.readouterr().out


def test_a_console_stops_a_run_and_the_next_call_continues_it(workspace: Path, tmp_path: Path) -> None:
    with pytest.raises(ivr.UserError, match=r"train\.lr"):
        ivr.train("configs/synth.yaml", ["train.lr=-1"])
    run = [f"run.dir={tmp_path}/run"]
    stopped = ivr.train("configs/synth.yaml", run, console=Recorder(stop=True))
    assert (stopped.status, stopped.metrics) == ("stopped", {})
    assert ivr.train("configs/synth.yaml", run).steps == 4
    assert ivr.open_run(f"{tmp_path}/run").loss_curve() == ivr.open_run("runs/synth").loss_curve()


def test_a_callback_that_cannot_start_leaves_no_thread_behind(workspace: Path, tmp_path: Path) -> None:
    callbacks = f"[{{class: tests.extension_parts:Recorder, folder: {tmp_path}}}, tests.extension_parts:Unready]"
    with pytest.raises(ivr.IvrError, match="Unready failed in on_start: ConnectionError: the alarm does not answer"):
        ivr.train("configs/synth.yaml", [f"run.dir={tmp_path}/run", f"run.callbacks={callbacks}"])
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("ivr-")] == []
    assert (tmp_path / "calls-0.txt").read_text().splitlines() == ["start 1 0 of 4 on 1", "close"]
    assert ivr.train("configs/synth.yaml", [f"run.dir={tmp_path}/run"]).steps == 4


def test_the_callers_settings_are_as_they_were(workspace: Path, tmp_path: Path) -> None:
    import torch

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    torch.manual_seed(7)
    before = torch.get_rng_state(), torch.get_num_threads()
    ivr.train("configs/synth.yaml", [f"run.dir={tmp_path}/run", "train.max_steps=1"])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers


def test_loading_and_predicting_need_neither_ray_nor_deepspeed(workspace: Path) -> None:
    code = (
        "import sys; sys.modules['ray'] = sys.modules['deepspeed'] = None\n"
        "import ivr_dist as ivr\n"
        "print(len(ivr.predict('runs/synth', 'data/synth/test')), len(ivr.evaluate('runs/synth', 'data/synth/test')))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "12"


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_overrides_of_a_config_made_in_python_are_checked() -> None:
    given = ["data.train=x", "train.select=last"]
    config = with_overrides(load_config(None, given), ["train.lr=0.5", "loss.tasks.mood=2"]).config
    assert (config.train.lr, config.loss.tasks) == (0.5, {"mood": 2.0})
    wrong = replace(config, train=replace(config.train, lr=-1.0))
    with pytest.raises(ivr.ConfigError, match=r"train\.lr"):
        with_overrides(wrong, [])
    wrong = replace(config, train=replace(config.train, lr="fast"))  # type: ignore[arg-type]
    with pytest.raises(ivr.ConfigError, match=r"train\.lr: 'fast' is not a number \(the given config\)"):
        with_overrides(wrong, [])
    several = replace(config.train, betas=(0.9, 0.5), max_steps=np.int64(3))  # type: ignore[arg-type]
    converted = with_overrides(replace(config, train=several), []).config.train
    assert converted.betas == [0.9, 0.5] and type(converted.max_steps) is int


def test_token_ids_are_predicted_as_those_of_a_split(tmp_path: Path) -> None:
    pack(SynthSource(samples=40, seed=2, text="tokens"), str(tmp_path / "synth"))
    config = ["run.num_workers=0", f"run.dir={tmp_path}/run", f"data.train={tmp_path}/synth/train", "model.hidden=16"]
    config += ["train.global_batch=16", "train.max_steps=1", "train.select=last", "loss.consistency.group=8"]
    model = ivr.load(ivr.train(ivr.load_config(None, config)).run)
    split = ivr.open_split(tmp_path / "synth" / "test")
    expected = ivr.predict(model, split).predictions["sentiment"]
    np.testing.assert_allclose(ivr.predict(model, list(split)).predictions["sentiment"], expected, atol=1e-5)
    with pytest.raises(ivr.DataError, match="the model reads whole numbers"):
        ivr.predict(model, [{"text": np.zeros(3)}])


def test_classes_have_probabilities() -> None:
    from ivr_dist.shards.specs import TaskSpec

    none = np.zeros(2, bool)
    logits = np.array([[0.0, np.log(3.0)], [np.log(4.0), 0.0]])
    scored = Predictions(["a", "b"], {"mood": logits}, {"mood": np.array([1.0, 0.0])}, {"mood": none})
    table = _table(scored, {"mood": TaskSpec(type="classification", classes=2)})
    assert table.predictions["mood"].tolist() == [1, 0]
    np.testing.assert_allclose(table.probabilities["mood"], [[0.25, 0.75], [0.8, 0.2]])
    assert list(table.to_dict()) == ["id", "mood", "mood_label", "mood_p0", "mood_p1"]
    assert np.isnan(table.labels["mood"]).all()
