"""File and folder names in a run directory, defined only here.

    RUN/run.json                             config and data of the run
    RUN/result.json                          scores, once the run has finished
    RUN/stop                                 its presence ends the run after a checkpoint
    RUN/attempts/0001.json                   one record for each start of a worker group
    RUN/checkpoints/step-00001200.a02/       `checkpoint.store` describes what is inside
    RUN/audit/attempt-0001/rank-00000-000001.jsonl     ids trained on, by rank
    RUN/history/attempt-0001/rank-00000-000001.jsonl   loss and metrics by step
    RUN/excluded/MANIFEST_ID.npy             samples of a split that the run leaves out
    RUN/pulse/0001.json                      heartbeat of an attempt
    RUN/driver/000001.json                   driver lease
    RUN/tensorboard/                         event files
    RUN/stacks/                              stacks of workers that hung
    RUN/ray/                                 Ray Train's own storage
    RUN/seeds.json, RUN/seed-0/ ...          summary and run directories of several seeds
    RUN/leave_one_out.json, RUN/without-NAME/   scores and run directories of a pool without one of its corpora each

Older runs are read by the same names: changing one makes them unreadable.
"""

from __future__ import annotations

from dataclasses import dataclass

from ivr_dist import storage
from ivr_dist.storage.numbered_names import Numbered

RECORD = "run.json"
RESULT = "result.json"
STOP_FILE = "stop"
LEAVE_ONE_OUT_SUMMARY = "leave_one_out.json"
SEEDS_SUMMARY = "seeds.json"

ATTEMPTS = "attempts"
AUDIT = "audit"
CHECKPOINTS = "checkpoints"
DRIVERS = "driver"
EXCLUDED = "excluded"
HEARTBEATS = "pulse"
HISTORY = "history"
RAY = "ray"
STACKS = "stacks"
TENSORBOARD = "tensorboard"

ATTEMPT_NAME = Numbered("{:04d}.json")
CHECKPOINT_NAME = Numbered("step-{:08d}.a{:02d}")
DRIVER_NAME = Numbered("{:06d}.json")
HEARTBEAT_NAME = Numbered("{:04d}.json")
LEDGER_FOLDER_NAME = Numbered("attempt-{:04d}")
LEDGER_SEGMENT_NAME = Numbered("rank-{:05d}-{:06d}.jsonl")
SEED_RUN_NAME = Numbered("seed-{:01d}")


@dataclass(frozen=True)
class RunPaths:
    """URLs of the files and folders of one run; nothing is read or created."""

    url: str
    """The run directory."""

    @property
    def record(self) -> str:
        """Config and data of the run."""
        return storage.join(self.url, RECORD)

    @property
    def result(self) -> str:
        """Scores of the finished run."""
        return storage.join(self.url, RESULT)

    @property
    def stop_file(self) -> str:
        """The file whose presence ends the run after a checkpoint."""
        return storage.join(self.url, STOP_FILE)

    @property
    def leave_one_out_summary(self) -> str:
        """Scores of each corpus by a pool without it."""
        return storage.join(self.url, LEAVE_ONE_OUT_SUMMARY)

    def run_without(self, corpus: str) -> str:
        """Run directory of a pool without one of its corpora."""
        return storage.join(self.url, f"without-{corpus}")

    @property
    def seeds_summary(self) -> str:
        """Mean and standard deviation over several seeds."""
        return storage.join(self.url, SEEDS_SUMMARY)

    def seed_run(self, seed: int) -> str:
        """Run directory of one of several seeds."""
        return storage.join(self.url, SEED_RUN_NAME.name(seed))

    @property
    def attempts(self) -> str:
        """Folder of the attempt records."""
        return storage.join(self.url, ATTEMPTS)

    def attempt(self, number: int) -> str:
        """Record of an attempt."""
        return storage.join(self.attempts, ATTEMPT_NAME.name(number))

    @property
    def checkpoints(self) -> str:
        """Folder of the checkpoints."""
        return storage.join(self.url, CHECKPOINTS)

    def checkpoint(self, name: str) -> str:
        """Folder of a checkpoint by its name, such as `step-00001200.a02`."""
        return storage.join(self.checkpoints, name)

    @property
    def drivers(self) -> str:
        """Folder of the driver leases."""
        return storage.join(self.url, DRIVERS)

    def driver(self, number: int) -> str:
        """Lease of a driver."""
        return storage.join(self.drivers, DRIVER_NAME.name(number))

    def excluded(self, manifest_id: str) -> str:
        """Numbers of the samples that the run leaves out of the split with this manifest."""
        return storage.join(self.url, EXCLUDED, f"{manifest_id}.npy")

    @classmethod
    def of_checkpoint(cls, url: str) -> RunPaths | None:
        """Return the run that a checkpoint is in; None for one that was copied elsewhere."""
        folder, _, _ = storage.absolute(url).rstrip("/").rpartition("/")
        run_url, _, name = folder.rpartition("/")
        return cls(run_url) if name == CHECKPOINTS and run_url else None

    @property
    def heartbeats(self) -> str:
        """Folder of the heartbeats."""
        return storage.join(self.url, HEARTBEATS)

    def heartbeat(self, attempt: int) -> str:
        """Heartbeat of an attempt."""
        return storage.join(self.heartbeats, HEARTBEAT_NAME.name(attempt))

    def ledger(self, ledger: str) -> str:
        """Folder of a ledger, `AUDIT` or `HISTORY`."""
        return storage.join(self.url, ledger)

    def ledger_folder(self, ledger: str, attempt: int) -> str:
        """Folder of an attempt's records in a ledger."""
        return storage.join(self.url, ledger, LEDGER_FOLDER_NAME.name(attempt))

    def ledger_segment(self, ledger: str, attempt: int, rank: int, segment: int) -> str:
        """A segment that one rank wrote."""
        return storage.join(self.ledger_folder(ledger, attempt), LEDGER_SEGMENT_NAME.name(rank, segment))

    @property
    def tensorboard(self) -> str:
        """Folder of TensorBoard's event files."""
        return storage.join(self.url, TENSORBOARD)

    @property
    def stacks(self) -> str:
        """Folder of the stacks of workers that hung."""
        return storage.join(self.url, STACKS)

    @property
    def ray(self) -> str:
        """Storage path of Ray Train."""
        return storage.join(self.url, RAY)
