"""Each key of the config, changed in turn: on a finished run, an unfinished one, and with `--seeds`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ivr_dist import storage
from ivr_dist.checkpoint import store
from ivr_dist.config import Config
from ivr_dist.config.loading import Loaded, from_dict, load_config, to_dict
from ivr_dist.config.types import value_of
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.data.cursor import DataCursor
from ivr_dist.errors import CheckpointMismatchError, CorruptDataError, FaultsError, UserError
from ivr_dist.inspection.existing_run import finished_result, read_result, record
from ivr_dist.inspection.status import status
from ivr_dist.orchestration.multi_seed import _check as check_seeds
from ivr_dist.orchestration.preflight import absolute, preflight
from ivr_dist.packing.pack import pack
from ivr_dist.planning.plan import total_steps
from ivr_dist.planning.run_identity import ROLES, Experiment, compare, ids, table, unclassified
from ivr_dist.run import attempts
from ivr_dist.run.paths import RECORD, RESULT
from ivr_dist.shards.manifest import Manifest
from tests.repository import ROOT
from tests.states import stored_state

RUNNING = ROOT / "docs" / "running.md"
STEPS = 6

# Another value that comes to something else, where the key's type does not say one.
OTHERS: dict[str, Any] = {
    "run.num_workers": 4,
    "run.resume": "auto",
    "run.callbacks": [{"class": "tests.extension_parts:Recorder", "folder": "x"}],
    "data.modalities": ["text", "audio"],
    "data.standardize": ["audio"],
    "loss.scale": "native",
    "train.freeze": ["encoders"],
    "data.lanes": 4,
    "data.shuffle_delay": 7,
    "model.hidden": 32,
    "model.text.pretrained": "",
    "model.class": "tests.extension_parts:Whole",
    "loss.tasks": {"sentiment": 2.0},
    "loss.extra": {"contrast": {"class": "tests.extension_parts:Contrast", "weight": 0.1}},
    "loss.consistency.group": 8,
    "svr.modalities": ["text"],
    "svr.codes": ["shared"],
    "train.global_batch": 8,
    "train.epochs": 9.0,
    "train.max_steps": 9,
    "train.eval_every": "2steps",
    "train.betas": [0.8, 0.9],
    "train.monitor": "synth/corr",
    "eval.metrics": {"rank": "tests.extension_parts:WithinHalf"},
    "checkpoint.every": "2steps",
    "checkpoint.keep_every": "4steps",
    "data.cache_bytes": "2GiB",
    "data.disk_cache_bytes": "2GiB",
    "deepspeed": {"wall_clock_breakdown": True},
}
# What cannot be changed alone, or whose other values need something that is not here.
ELSEWHERE = {
    "data.train",
    "data.valid",
    "data.test",
    "data.exclude",
    "run.dir",
    "run.resume",
    "model.text.pretrained",
    "data.corpora",
    "data.mix.alpha",
    "data.mix.epoch_samples",
    "data.mix.schedule",
}
KEYS = [key for key in ROLES if key not in ELSEWHERE]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpora")
    for name, seed in (("one", 1), ("two", 2)):
        pack(SynthSource(samples=60, seed=seed), str(place / name))
    return place


def settings(corpora: Path, run: Path, **more: Any) -> Config:
    data = {split: str(corpora / "one" / split) for split in ("train", "valid", "test")}
    values = {"data": data, "run": {"dir": str(run)}, "train": {"global_batch": 16, "max_steps": STEPS}, **more}
    return from_dict(values)


def changed(config: Config, key: str) -> Config:
    """The config with another value of a key."""
    old = value_of(config, key)
    new = OTHERS.get(key)
    if key not in OTHERS:
        new = next(value for value in other_values(key, old) if value != old)
    values = to_dict(config)
    section: Any = values
    *parents, leaf = key.split(".")
    for parent in parents:
        section = section[parent]
    section[leaf] = new
    return from_dict(values)


def other_values(key: str, old: Any) -> list[Any]:
    from typing import Literal, get_args, get_origin

    from ivr_dist.config.types import keys

    annotation = keys()[key].annotation
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, (int, float)):
        return [old + 1, 0.5]
    if old is None:
        return [3] if int in get_args(annotation) else [0.5]
    return ["other"]


def lay(run: Path, config: Config, manifests: dict[str, Manifest], *, finished: bool = True, old: bool = False) -> None:
    """What a run leaves behind, as far as its identity is concerned."""
    shutil.rmtree(run, ignore_errors=True)
    number = attempts.allocate(str(run), parent=None, step=0, stage=1, steps_per_epoch=3, workers=["here:1"]).number
    name = store.CheckpointName(STEPS if finished else 3, number)
    cursor = DataCursor(manifest_id=manifests["train"].id, seed=0, lanes=1, global_batch=1, delay=0)
    state = stored_state(name.step, config=to_dict(config), cursor=cursor.to_json(), manifests=ids(manifests))
    result = {
        "run": str(run),
        "status": "finished",
        "checkpoint": name.url(str(run)),
        "steps": STEPS,
        "total_steps": STEPS,
        "attempts": 1,
        "metrics": {"test": {"synth/mae": 0.5}},
    }
    written = record(config, manifests)
    if old:
        del state["manifests"], written["manifests"]
    store.write_part(name.url(str(run)), 0, 1, {store.STATE: [json.dumps(state).encode()]}, [])
    storage.write_json(f"{run}/{RECORD}", written)
    if finished:
        storage.write_json(f"{run}/{RESULT}", result)


@pytest.fixture(scope="module")
def shared(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Manifest]]:
    """A config and its data, with a finished run `run`, an unfinished one `begun`, and two seeds in `seeds`."""
    place = tmp_path_factory.mktemp("runs")
    config = settings(corpora, place / "run")
    manifests = preflight(config, 1)[1]
    lay(place / "run", config, manifests)
    lay(place / "begun", config, manifests, finished=False)
    for seed in (0, 1):
        seeded = replace(config, run=replace(config.run, seed=seed, dir=str(place / "seeds" / f"seed-{seed}")))
        lay(place / "seeds" / f"seed-{seed}", seeded, manifests, finished=seed == 0)
    return config, manifests


def ask(config: Config, manifests: dict[str, Manifest]) -> dict[str, Any] | None:
    return finished_result(config, total_steps(config, manifests["train"].samples), manifests)


def refusal(act: Callable[[], object]) -> str:
    """What is refused; empty if nothing is."""
    try:
        act()
    except UserError as error:
        assert error.exit_code == 2
        return str(error)
    return ""


def test_every_key_has_a_role() -> None:
    assert unclassified() == []


def test_the_documentation_shows_the_table() -> None:
    assert "\n".join(table()) + "\n" in RUNNING.read_text()


@pytest.mark.parametrize("key", KEYS)
def test_a_finished_run_has_a_result_for_its_own_config(key: str, shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    other = changed(config, key)
    role = ROLES[key]
    if role == "length" and total_steps(other, manifests["train"].samples) != STEPS:
        assert ask(other, manifests) is None, "it is trained on"
        return
    said = refusal(lambda: ask(other, manifests))
    if role in ("identity", "recipe"):
        assert "is a finished run of another config" in said and f"{key} is " in said
        assert "choose another run.dir, or start over with run.resume=never" in said
    else:
        assert said == ""
        shown = ask(other, manifests)
        assert shown is not None and shown["metrics"] == {"test": {"synth/mae": 0.5}}


@pytest.mark.parametrize("key", KEYS)
def test_an_unfinished_run_continues_with_its_own_config(key: str, shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    begun = replace(config, run=replace(config.run, dir=str(Path(config.run.dir).parent / "begun")))
    other = changed(begun, key)
    said = refusal(lambda: ask(other, manifests))
    found = compare(Experiment(begun, ids(manifests)), Experiment(other, ids(manifests)), manifests)
    listed = [change.key for change in found.listed]
    if ROLES[key] == "identity":
        assert "is a run of another config" in said and f"{key} is " in said
    else:
        assert said == "" and ask(other, manifests) is None
        # Epochs have no say where there are steps.
        assert listed == ([key] if ROLES[key] in ("recipe", "length") and key != "train.epochs" else [])


@pytest.mark.parametrize("key", KEYS)
def test_seeds_are_checked_together(key: str, shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, _ = shared
    if key == "run.num_workers":
        return
    place = str(Path(config.run.dir).parent / "seeds")
    other = changed(replace(config, run=replace(config.run, dir=place)), key)
    said = refusal(lambda: check_seeds(Loaded(other, {}, ""), {seed: f"{place}/seed-{seed}" for seed in (0, 1)}))
    lines = [line for line in said.splitlines() if f"{key} is " in line]
    if key == "run.seed":
        assert said == ""
    elif ROLES[key] == "identity":
        assert len(lines) == 2 and "seed-0 is a finished run" in lines[0] and "seed-1 is a run" in lines[1]
    else:
        assert len(lines) == (ROLES[key] == "recipe"), "the second seed is not finished"


def test_faults_of_directories_and_of_data(shared: tuple[Config, dict[str, Manifest]], corpora: Path) -> None:
    config, manifests = shared
    for split in ("train", "valid", "test"):
        data = replace(config.data, **{split: str(corpora / "two" / split)})
        others = {**manifests, split: Manifest.load(str(corpora / "two" / split))}
        said = refusal(lambda data=data, others=others: ask(replace(config, data=data), others))
        assert f"data.{split} is {corpora}/one/{split} (manifest {manifests[split].id[:12]}) there" in said
        # Behind the same place.
        assert f"data.{split} is" in refusal(lambda others=others: ask(config, others))
    without = replace(config, data=replace(config.data, test=""))
    assert f"data.test is {corpora}/one/test there and unset here" in refusal(
        lambda: ask(without, {split: manifests[split] for split in ("train", "valid")})
    )


def test_moved_data_are_the_same(shared: tuple[Config, dict[str, Manifest]], corpora: Path, tmp_path: Path) -> None:
    config, _ = shared
    shutil.copytree(corpora / "one", tmp_path / "copy")
    splits = {split: str(tmp_path / "copy" / split) for split in ("train", "valid", "test")}
    moved = replace(config, data=replace(config.data, **splits))
    assert ask(moved, preflight(moved, 1)[1]) is not None


def test_a_run_of_an_older_version_is_compared_as_far_as_it_tells(corpora: Path, tmp_path: Path) -> None:
    config = settings(corpora, tmp_path / "run")
    manifests = preflight(config, 1)[1]
    lay(tmp_path / "run", config, manifests, old=True)
    assert ask(config, manifests) is not None
    two = {**manifests, "train": Manifest.load(str(corpora / "two" / "train"))}
    assert "data.train is" in refusal(lambda: ask(config, two))
    # There the group was 64 whatever the batch.
    written = json.loads((tmp_path / "run" / RECORD).read_text())
    written["config"]["loss"]["consistency"]["group"] = 16
    (tmp_path / "run" / RECORD).write_text(json.dumps(written))
    assert ask(config, manifests) is not None


@pytest.mark.parametrize(
    "same",
    [
        {"loss": {"consistency": {"group": 16}}},
        {"data": {"lanes": 16}},
        {"data": {"shuffle_delay": 1000}},
        {"data": {"modalities": ["vision", "audio", "text"]}},
        {"data": {"standardize": ["vision", "audio"]}},
        {"svr": {"codes": ["shared", "private"]}},
        {"loss": {"tasks": {"sentiment": 1.0}}},
        {"train": {"max_steps": None, "epochs": 2.0}},
        {"train": {"eval_every": "3steps"}},
    ],
)
def test_an_unset_key_and_the_value_it_has_are_the_same(
    same: dict[str, Any], shared: tuple[Config, dict[str, Manifest]]
) -> None:
    config, manifests = shared
    values = to_dict(config)
    for section, given in same.items():
        values[section] = {**values[section], **given}
        for name, value in given.items():
            if isinstance(value, dict) and name != "tasks":
                values[section][name] = {**to_dict(config)[section][name], **value}
    other = from_dict(values)
    assert other != config
    found = compare(Experiment(config, ids(manifests)), Experiment(other, ids(manifests)), manifests)
    assert (found.refused, found.listed) == ((), ())
    assert ask(other, manifests) is not None


def test_all_that_differs_is_named(shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    other = changed(changed(changed(config, "model.hidden"), "loss.svr.weight"), "train.lr")
    said = refusal(lambda: ask(other, manifests))
    assert "model.hidden is 128 there and 32 here, loss.svr.weight is 1 there and 2 here" in said
    assert "train.lr is 0.001 there and 1.001 here" in said


def test_changes_are_listed_as_a_user_would_type_them(shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    longer = changed(changed(config, "train.max_steps"), "train.lr")
    found = compare(Experiment(config, ids(manifests)), Experiment(longer, ids(manifests)), manifests)
    text = ", ".join(map(str, found.listed))
    assert text == "train.max_steps 6 -> 9 (the schedule is that of 9), train.lr 0.001 -> 1.001"


def test_a_run_from_the_checkpoint_of_another_has_losses_of_its_own(shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    there, here = Experiment(config, ids(manifests)), Experiment(changed(config, "loss.svr.weight"), ids(manifests))
    found = compare(there, here, manifests, borrowed=True)
    assert (found.describe(), [change.key for change in found.listed]) == ("", ["loss.svr.weight"])
    standardized = Experiment(changed(config, "data.standardize"), ids(manifests))
    assert "data.standardize" in compare(there, standardized, manifests, borrowed=True).describe()


def test_a_run_cannot_be_shortened_below_its_steps(shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    shorter = replace(config, train=replace(config.train, max_steps=4))
    with pytest.raises(
        CheckpointMismatchError, match=r"has been trained for 6 steps already, more than the 4 of this config"
    ):
        ask(shorter, manifests)


def test_nothing_is_compared_when_starting_over_or_from_another_run(shared: tuple[Config, dict[str, Manifest]]) -> None:
    config, manifests = shared
    other = changed(config, "model.hidden")
    assert ask(replace(other, run=replace(other.run, resume="never")), manifests) is None


def test_a_run_that_never_trained_allows_any_config(corpora: Path, tmp_path: Path) -> None:
    config = settings(corpora, tmp_path / "run")
    manifests = preflight(config, 1)[1]
    attempts.allocate(config.run.dir, parent=None, step=0, stage=1, steps_per_epoch=3, workers=["here:1"])
    storage.write_json(f"{config.run.dir}/{RECORD}", record(config, manifests))
    assert ask(changed(config, "model.hidden"), manifests) is None


def test_a_result_has_the_current_paths(shared: tuple[Config, dict[str, Manifest]], tmp_path: Path) -> None:
    config, manifests = shared
    shutil.copytree(config.run.dir, tmp_path / "moved")
    moved = absolute(replace(config, run=replace(config.run, dir=str(tmp_path / "moved"))))
    result = ask(moved, manifests)
    assert result is not None and result["run"] == str(tmp_path / "moved")
    assert Path(result["checkpoint"]).is_dir() and Path(result["checkpoint"]).is_relative_to(tmp_path / "moved")


@pytest.mark.parametrize("content", ["[]", "{}", "{", '{"checkpoint": 3}', "null"])
@pytest.mark.parametrize("name", [RECORD, RESULT])
def test_damaged_records_are_no_internal_errors(
    name: str, content: str, shared: tuple[Config, dict[str, Manifest]], tmp_path: Path
) -> None:
    config, manifests = shared
    shutil.copytree(config.run.dir, tmp_path / "run")
    (tmp_path / "run" / name).write_text(content)
    with pytest.raises(CorruptDataError, match=name):
        ask(replace(config, run=replace(config.run, dir=str(tmp_path / "run"))), manifests)


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        (RECORD, "manifests", [[1], "x", {"train": 5}, None]),
        (RECORD, "modalities", [5, "text", [1]]),
        (RECORD, "not_used", [7, {"text": 1}]),
        (RECORD, "config", [[], None]),
        (RESULT, "metrics", [[], {"valid": 5}, {"valid": {"mae": "x"}}]),
        (RESULT, "steps", [-1, 7, 10**400, True, 1.0]),
        (RESULT, "total_steps", [10**30]),
        (RESULT, "modalities", [5, None]),
        (RESULT, "status", [None]),
    ],
)
def test_so_are_fields_of_another_kind(
    name: str, field: str, values: list[object], shared: tuple[Config, dict[str, Manifest]], tmp_path: Path
) -> None:
    """Also in `status` and `audit`, which read them too; an audit up to step 10**400 would not end."""
    shutil.copytree(shared[0].run.dir, tmp_path / "run")
    sound = json.loads((tmp_path / "run" / name).read_text())
    for value in values:
        (tmp_path / "run" / name).write_text(json.dumps(sound | {field: value}))
        with pytest.raises(CorruptDataError, match=rf"its {field} is invalid|more steps.*{name}"):
            status(str(tmp_path / "run"))


def test_no_result_of_a_run_without_one(tmp_path: Path) -> None:
    assert read_result(str(tmp_path)) is None


def test_faults_name_the_lines_of_the_config_and_the_data(corpora: Path, tmp_path: Path) -> None:
    """A config's own contradictions and what the data say against it, in one error."""
    from ivr_dist.config.loading import load
    from ivr_dist.orchestration.preflight import further_faults

    path = tmp_path / "mine.yaml"
    path.write_text(
        f"data:\n  train: {corpora}/one/train\n  valid: {corpora}/one/valid\n"
        "loss:\n  consistency: {group: 48}\ntrain:\n  global_batch: 64\n  monitor: nope\n"
    )
    with pytest.raises(FaultsError) as error:
        load(str(path), ["model.size=huge"], further_faults)
    lines = str(error.value).splitlines()
    assert lines[0] == f"4 faults ({path})"
    assert lines[1].startswith("  model.size: 'huge' is not one of base, large, xl (override 'model.size=huge')")
    assert lines[2].startswith("  loss.consistency.group = 48 does not divide train.global_batch = 64 (line 7, line 5)")
    assert "train.global_batch = 64 is larger than the training split's 42 samples (line 7)" in lines[3]
    assert "train.monitor = nope is not a metric of the validation split (line 8)" in lines[4]
    path.write_text(path.read_text().replace("group: 48", "group: 64"))
    loaded = load_config(str(path))
    with pytest.raises(FaultsError) as error:
        preflight(loaded, 1)
    assert len(error.value.faults) == 2
