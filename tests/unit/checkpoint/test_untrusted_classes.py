"""A sound checkpoint from elsewhere that names classes: nothing of it is imported without `--trust-code`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

import ivr_dist as ivr
from ivr_dist.checkpoint import store, weights
from ivr_dist.checkpoint.fragments import Fragment, share
from ivr_dist.checkpoint.part_manifest import WEIGHT
from ivr_dist.checkpoint.tensors import describe_fragments, tensor_files
from ivr_dist.cli.main import main
from ivr_dist.config.loading import load_config, to_dict
from ivr_dist.corpora.synthetic import SynthSource
from ivr_dist.packing.pack import pack
from tests.states import stored_state

PLANTED = "planted:Evil"
KEYS = {
    "model.class": f"model.class={PLANTED}",
    "loss.extra": f"loss.extra={{evil: {{class: '{PLANTED}'}}}}",
    "eval.metrics": f"eval.metrics={{evil: {{class: '{PLANTED}'}}}}",
    "run.callbacks": f"run.callbacks=['{PLANTED}']",
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that the planted module writes when it is imported; the module lies in the current directory."""
    (tmp_path / "planted.py").write_text(
        "from pathlib import Path\nPath(__file__).with_name('imported').touch()\n\n\nclass Evil:\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    return tmp_path / "imported"


def checkpoint(folder: Path, override: str) -> str:
    """One that passes every check of its bytes, as a stranger can make it."""
    config = load_config(None, ["data.train=data/train", "train.select=last", override])
    state = stored_state(
        3,
        config=to_dict(config),
        features={"audio": ["features", 12]},
        tasks={"sentiment": {"type": "regression", "low": -3.0, "high": 3.0, "classes": None, "scale": "mosi"}},
        classes={override.partition("=")[0]: {"class": PLANTED, "version": "1"}},
        shapes={"a": [2]},
    )
    part = share([Fragment("a", 0, 2, {WEIGHT: torch.ones(2)}, {"step": 3.0})], 0, 1)
    files = {**tensor_files(part, 0), store.STATE: [json.dumps(state).encode()]}
    url = folder / "checkpoints" / "step-00000003.a01"
    store.write_part(str(url), 0, 1, files, describe_fragments(part), "elsewhere")
    return str(url)


@pytest.mark.parametrize("key", KEYS)
def test_reading_it_imports_nothing(key: str, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = checkpoint(tmp_path, KEYS[key])
    pack(SynthSource(40), str(tmp_path / "data"))
    assert weights.stored_config(store.verify(url), url)
    for attempt in (lambda: weights.load_model(url), lambda: ivr.load(url), lambda: ivr.evaluate(url, "data/test")):
        # The weights are not those of any model either, so that all of them fail.
        with pytest.raises(ivr.IvrError):
            attempt()
    assert main(["evaluate", url, "--shards", "data/test"]) != 0
    main(["reshape", url, "--out", "reshaped", "--parts", "2"])
    resumed = ["run.dir=new", "run.num_workers=0", f"run.resume={url}", "train.global_batch=8", "train.max_steps=4"]
    (tmp_path / "run.yaml").write_text("data: {train: data/train}\ntrain: {select: last}\n")
    assert main(["train", "run.yaml", *resumed]) != 0
    assert not marker.exists(), capsys.readouterr().err


def test_the_model_of_one_that_is_trusted_is_imported(tmp_path: Path, marker: Path) -> None:
    url = checkpoint(tmp_path, KEYS["model.class"])
    with pytest.raises(ivr.IvrError, match=r"planted:Evil.*--trust-code"):
        weights.load_model(url)
    assert not marker.exists()
    with pytest.raises(ivr.IvrError, match="planted:Evil is not a model"):
        weights.load_model(url, trust_code=True)
    assert marker.exists()
