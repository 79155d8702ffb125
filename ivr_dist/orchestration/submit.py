"""Submit a training run as a Ray job: check the upload, follow the job's output, return its exit code."""

from __future__ import annotations

import ipaddress
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO
from urllib.parse import urlsplit

import psutil

from ivr_dist import storage
from ivr_dist.common import dotted_path
from ivr_dist.common.library_errors import describe, first_sentence, last_words
from ivr_dist.config import Config, extensions
from ivr_dist.config.corpora import SPLITS, entries
from ivr_dist.config.loading import load_config, override
from ivr_dist.display.plain_output import say
from ivr_dist.errors import ConfigError, IvrError, UserError
from ivr_dist.model.text.text_encoder import local_folder
from ivr_dist.runtime.environment import RECORDER, run_variables
from ivr_dist.sanitize import hide_secrets, plain_lines, writable
from ivr_dist.units import format_bytes

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
EXIT_INTERRUPTED = 130
EXIT_STOPPED = 143

# Ray's Jobs API refuses bodies above 100 MiB with an opaque error.
MAX_UPLOAD_BYTES = 90 * 1024**2
_LARGEST_SHOWN = 10
_POLL_S = 0.3
# Between SIGTERM and SIGKILL of a stopped job: long enough to finish a step and write a checkpoint. Ray's own is 3 s.
_STOP_GRACE_S = 60


def submit(
    config_path: str,
    overrides: Sequence[str] = (),
    *,
    address: str = DEFAULT_ADDRESS,
    wait: bool = True,
    stream: TextIO | None = None,
) -> int:
    """Run `ivr-dist train` as a Ray job on a cluster.

    The checkout around the current directory is uploaded, without what .gitignore and .rayignore match.

    Args:
        config_path: The config, a file inside the checkout.
        overrides: Dotted overrides, `key=value`.
        address: Address of the cluster's Jobs API, such as http://head:8265.
        wait: Follow the job to its end; otherwise return once it is accepted.
        stream: Destination of the job's output; stdout by default.

    Returns:
        The job's exit code; 130 after Ctrl-C (which stops the job), 143 if it was stopped in another way.

    Raises:
        UserError: The config, paths, package or address cannot work; nothing was submitted.
        IvrError: The cluster failed.
    """
    stream = stream or sys.stdout
    config = load_config(config_path, list(overrides))
    root = project_root(Path.cwd())
    all_overrides = [*overrides, *absolute_paths(config, address)]
    _refuse_secrets(all_overrides)
    check_package(root, Path(config_path).resolve(), code_files(config, root))
    entrypoint = ["python", "-m", "ivr_dist", "train", os.path.relpath(config_path, root), *all_overrides]
    with _cluster_errors(address):
        client = _connect(address)
        job = client.submit_job(
            entrypoint=shlex.join(entrypoint),
            runtime_env={"working_dir": str(root), "env_vars": job_environment(os.environ)},
        )
        shown_address = storage.display(address)
        job_options = f"--address {shlex.quote(shown_address)} {job}"
        say(f"submitted {job} to {shown_address}: {shlex.join(entrypoint)}", stream)
        say(f"logs: ray job logs --follow {job_options}   stop: ray job stop {job_options}", stream, flush=True)
        return _follow(client, job, stream) if wait else 0


def _refuse_secrets(overrides: Sequence[str]) -> None:
    """Keep passwords out of the job's command, which the dashboard of the cluster shows to everybody.

    Raises:
        UserError: An override contains a password or signature in a URL.
    """
    for text in overrides:
        if hide_secrets(text) != text:
            raise UserError(
                "the cluster shows a job's command, and this override has a password or signature in its URL",
                where=text,
                remedy="write the URL into the config, or pass credentials in environment variables (AWS_*, FSSPEC_*)",
            )


def project_root(directory: Path) -> Path:
    """Find the checkout around a directory: the directory, or the nearest one above, that contains the package.

    Raises:
        UserError: There is none.
    """
    for folder in (directory, *directory.parents):
        if (folder / "ivr_dist" / "__init__.py").is_file():
            return folder
    raise UserError(
        "no checkout of ivr_dist to upload",
        where=str(directory),
        remedy="run this in the project's directory, or install the package on the cluster and use `ray job submit`",
    )


def job_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of the job: those that the run needs, and a grace period for a checkpoint when stopped."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_GRACE_S), **RECORDER, **run_variables(environment)}


def absolute_paths(config: Config, address: str) -> list[str]:
    """Make overrides that replace the relative paths of a config by absolute ones.

    A job runs in a copy of the checkout, where `data/x` is another directory. If the cluster is this machine, the
    absolute path is valid there; on another machine no relative path can be resolved.

    Returns:
        One override for each relative path; none if all are absolute or URLs.

    Raises:
        ConfigError: A path is relative and the cluster is not this machine.
    """
    paths = {
        "run.dir": config.run.dir,
        "run.resume": "" if config.run.resume in ("auto", "never") else config.run.resume,
        "data.train": config.data.train,
        "data.valid": config.data.valid,
        "data.test": config.data.test,
        "data.exclude": config.data.exclude,
        "train.init_from": config.train.init_from,
        **{
            f"data.corpora.{name}.{key}": getattr(entry, key) or ""
            for name, entry in entries(config).items()
            if name
            for key in ("dir", *SPLITS)
        },
    }
    # The name of a model on the hub is not a path.
    if local_folder(config.model.text.pretrained):
        paths["model.text.pretrained"] = config.model.text.pretrained
    relative = {key: path for key, path in paths.items() if path and _is_relative(path)}
    if relative and (where := why_remote(address)):
        key, path = next(iter(relative.items()))
        raise ConfigError(
            f"{key}={path} is a path relative to this machine's current directory, and {where}",
            where=address,
            remedy=f"set {key} to a URL (s3://...) or to the absolute path of a folder that all nodes share",
        )
    return [override(key, storage.absolute(path)) for key, path in relative.items()]


def _is_relative(path: str) -> bool:
    return storage.is_local(path) and not os.path.isabs(storage.local_path(path)) and "://" not in path


def why_remote(address: str) -> str:
    """Explain why the cluster at a Jobs API address may not be this machine; empty if it is.

    A loopback address alone proves nothing: ssh and kubectl forward ports of other machines to it.

    Raises:
        UserError: It is not an HTTP address.
    """
    if not _is_loopback(address):
        return "the cluster is another machine"
    parts = urlsplit(address)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    owners = {
        entry.pid for entry in psutil.net_connections("tcp") if entry.status == "LISTEN" and entry.laddr[1] == port
    }
    lines = {pid: _command_line(pid) for pid in owners}
    if not owners or any("ray" in line and "dashboard" in line for line in lines.values()):
        return ""
    name = next((line.split()[0].rpartition("/")[2] for line in lines.values() if line), "a process of another user")
    return f"port {port} here belongs not to Ray but to {name}, as when the port of another machine is forwarded"


def _command_line(pid: int | None) -> str:
    with suppress(psutil.Error):
        return " ".join(psutil.Process(pid).cmdline()) if pid else ""
    return ""


def _is_loopback(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(
            "not the address of a Jobs API",
            where=address,
            remedy="give it as http://HOST:8265",
        )
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:
        return False


def upload_files(root: Path) -> list[tuple[Path, int]]:
    """List the files that Ray would upload from a folder, with sizes in bytes; Ray's code reads the ignore files."""
    from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
    from ray._private.runtime_env.packaging import _dir_travel

    files: list[tuple[Path, int]] = []

    def collect(path: Path) -> None:
        if path.is_file():
            files.append((path, path.stat().st_size))

    quiet_logger = logging.getLogger(f"{__name__}.upload")
    quiet_logger.setLevel(logging.ERROR)
    use_gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(root, [], collect, include_gitignore=use_gitignore, logger=quiet_logger)
    return sorted(files)


def code_files(config: Config, root: Path) -> list[Path]:
    """Files of the classes that a config names, as far as they are not installed: the job needs them.

    Args:
        config: The run's config.
        root: The checkout, whose copy is the directory of the job's command.

    Raises:
        UserError: A class cannot be imported here, or the job would not find it.
    """
    files = []
    for class_ref in extensions.all_of(config):
        kind = dotted_path.import_class(class_ref)
        file = dotted_path.source_file(kind)
        if file is None:
            continue
        package = root.joinpath(*kind.__module__.split("."))
        if file not in (package.with_suffix(".py"), package / "__init__.py"):
            raise UserError(
                f"the job would not find {kind.__module__}: it runs in a copy of {root} and looks for modules there",
                where=f"{class_ref.key}, {file}",
                remedy=f"move {kind.__module__.partition('.')[0]} there, or install it here and on the cluster",
            )
        files.append(file)
    return files


def check_package(root: Path, config_file: Path, code: Sequence[Path] = ()) -> None:
    """Check that the upload is small enough and would run.

    Args:
        root: The checkout.
        config_file: The run's config, an absolute path.
        code: Files of classes that the config names.

    Raises:
        UserError: It is too large, lacks a part of the package or the config, or its package cannot be imported.
    """
    files = upload_files(root)
    total = sum(size for _, size in files)
    if total > MAX_UPLOAD_BYTES:
        largest = sorted(files, key=lambda entry: -entry[1])[:_LARGEST_SHOWN]
        listing = ", ".join(f"{path.relative_to(root)} {format_bytes(size)}" for path, size in largest)
        raise UserError(
            f"the upload has {format_bytes(total)}, more than {format_bytes(MAX_UPLOAD_BYTES)}; largest: {listing}",
            where=str(root),
            remedy="list files that workers do not need in .rayignore",
        )
    uploaded = {path for path, _ in files}
    missing = [path for path in sorted((root / "ivr_dist").rglob("*.py")) if path not in uploaded]
    if missing:
        raise UserError(
            f"the upload would lack {len(missing)} files of the package, first {missing[0].relative_to(root)}",
            where=str(root),
            remedy="a pattern in .gitignore or .rayignore matches too much; anchor it with a leading /",
        )
    if lacking := [path for path in code if path not in uploaded]:
        raise UserError(
            "the code that the config names would not be uploaded",
            where=str(lacking[0]),
            remedy="put it into a folder that no ignore file names",
        )
    if config_file not in uploaded:
        raise UserError(
            "the config would not be uploaded",
            where=str(config_file),
            remedy="move it to a folder of the checkout that no ignore file matches, such as configs/",
        )
    _check_import([path for path in uploaded if path.is_relative_to(root / "ivr_dist")], root)


def _check_import(files: Sequence[Path], root: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ivr-upload-") as scratch:
        for path in files:
            copy = Path(scratch, path.relative_to(root))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        outcome = subprocess.run(
            [sys.executable, "-c", "import ivr_dist.cli.main, ivr_dist.orchestration.driver"],
            cwd=scratch,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if outcome.returncode:
        raise UserError(
            f"the package cannot be imported from the upload: {last_words(outcome.stderr) or 'killed'}",
            where=str(root),
            remedy="fix the code, or the ignore files if it can be imported here",
        )


def _connect(address: str) -> JobSubmissionClient:
    _is_loopback(address)
    # These variables would override the address.
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.pop("RAY_API_SERVER_ADDRESS", None)
    from ray.job_submission import JobSubmissionClient

    # These loggers report uploads and closed connections in Ray's internal terms.
    for module in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
    return JobSubmissionClient(address)


@contextmanager
def _cluster_errors(address: str) -> Iterator[None]:
    """Turn errors of Ray's job client into one line each."""
    from ray.exceptions import AuthenticationError
    from requests.exceptions import RequestException

    try:
        yield
    except AuthenticationError as error:
        raise UserError(
            f"the cluster refused the request: {describe(error)}",
            where=address,
            remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file with the cluster's token",
        ) from error
    except ConnectionError as error:
        raise UserError(
            "no Ray cluster answers", where=address, remedy="check --address, or start one: launch/local_cluster.sh up"
        ) from error
    except (RuntimeError, RequestException) as error:
        raise IvrError(f"the cluster failed: {describe(error)}", where=address, remedy="check its dashboard") from error


def _follow(client: JobSubmissionClient, job: str, stream: TextIO) -> int:
    """Copy the job's output until it ends; Ctrl-C stops the job, a second one detaches from it."""
    output = _Output(client, job, stream)
    try:
        return exit_code(output.copy_to_end())
    except KeyboardInterrupt:
        say(f"stopping {job}; press Ctrl-C again to detach", sys.stderr, flush=True)
        try:
            client.stop_job(job)
            output.copy_to_end()
        except KeyboardInterrupt:
            say(f"detached from {job}", sys.stderr, flush=True)
        return EXIT_INTERRUPTED


class _Output:
    """A job's output, copied exactly once however often the connection breaks."""

    def __init__(self, client: JobSubmissionClient, job: str, stream: TextIO) -> None:
        self._client = client
        self._job = job
        self._stream = stream
        self._copied = 0

    def copy_to_end(self) -> JobDetails:
        """Copy until the job has ended; returns its details."""
        import asyncio

        from aiohttp import ClientError

        while True:
            # A broken connection says nothing about the job: query its state, and resume the output where it stopped.
            with suppress(RuntimeError, ClientError):
                asyncio.run(self._copy())
            info = self._client.get_job_info(self._job)
            if info.status.is_terminal():
                return info
            time.sleep(_POLL_S)

    async def _copy(self) -> None:
        skip = self._copied
        async for text in self._client.tail_job_logs(self._job):
            new = text[skip:]
            skip -= len(text) - len(new)
            self._copied += len(new)
            self._stream.write(writable(plain_lines(new), self._stream))
            self._stream.flush()


def exit_code(info: JobDetails) -> int:
    """Return a finished job's exit code: that of its process, 128 + n if signal n ended it, 143 if it was stopped."""
    status = info.status.value
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return EXIT_STOPPED
    code = info.driver_exit_code
    if code is None:
        say(f"error: the job did not start: {first_sentence(info.message or status)}; see its logs", sys.stderr)
        return 1
    return int(code) if code >= 0 else 128 - int(code)
