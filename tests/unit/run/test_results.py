"""Results of runs: where they are read from, and what is shown of them."""

from __future__ import annotations

from ivr_dist.run.results import Result


def test_a_result_is_shown_without_passwords_and_read_with_them() -> None:
    url = "sftp://me:pa55word@host/runs/a"
    result = Result(url, "stopped", {}, f"{url}/checkpoints/step-00000002.a01", 2, 4, 1, ("text",))
    record = result.to_record()
    assert record["run"] == "sftp://***@host/runs/a" and record["modalities"] == ["text"]
    assert record["checkpoint"] == "sftp://***@host/runs/a/checkpoints/step-00000002.a01"
    assert result.run == url
    assert Result.from_record({**record, "checkpoint": None}).to_record()["checkpoint"] is None
