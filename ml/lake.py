"""The lake: storage of partitions, each of which becomes visible as a whole or not at all.

A partition is the folder `<root>/<stage>/<dataset>/<day>/`. Its `manifest.json` describes its contents and lists the partitions
that it was made from. A partition is written to `.staging/` and renamed into place when it is complete. This module does not
depend on the contents of partitions.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from upath import UPath

from ml.disk import fsync
from ml.locks import exclusive

MANIFEST = "manifest.json"


class MissingPartition(FileNotFoundError):
    """A required partition is not in the lake."""


class StalePartition(ValueError):
    """A partition was made from another version of the catalog entry, or from other inputs, than those now in use."""


class DamagedManifest(ValueError):
    """The manifest of a partition is not the JSON object that was written; the message names the file."""


class BusyPartition(TimeoutError):
    """Another run is writing the partition."""


@dataclass(frozen=True)
class Lake:
    """Partitions below one root.

    Args:
        root: The folder, local or of any fsspec filesystem.

    Example:
        >>> lake = Lake.at("memory://example-lake")
        >>> with lake.write("raw_logs", "criteo", "2014-01-01") as staging:
        ...     _ = (staging / "rows.txt").write_text("one row")
        ...     lake.write_manifest(staging, {"rows": 1})
        >>> lake.manifest("raw_logs", "criteo", "2014-01-01")["rows"]
        1
    """

    root: UPath

    @classmethod
    def at(cls, root: str | os.PathLike[str] | UPath) -> Lake:
        """Opens the lake at a path or fsspec URL."""
        path = UPath(root)
        return cls(path.absolute() if is_local(path) else path)

    def partition(self, stage: str, dataset: str, day: str) -> UPath:
        """Returns the folder of a partition, whether or not it exists."""
        return self.root / stage / dataset / day

    def has(self, stage: str, dataset: str, day: str) -> bool:
        """Whether a partition is in the lake."""
        return (self.partition(stage, dataset, day) / MANIFEST).exists()

    def require(self, stage: str, dataset: str, day: str, *, fingerprint: str | None = None, since: str | None = None) -> UPath:
        """Returns the folder of a partition, which must be in the lake.

        Args:
            stage: The stage, such as `raw_logs`.
            dataset: The dataset's name.
            day: The partition key.
            fingerprint: The fingerprint that the partition must have been made under, as `DatasetSpec.fingerprint_of` gives
                it. Not checked by default.
            since: First day to materialise again if the partition is stale, for a stage whose days build on each other; by
                default `day`.

        Raises:
            MissingPartition: The partition is not in the lake.
            StalePartition: The partition was made under another fingerprint.
        """
        if not self.has(stage, dataset, day):
            raise MissingPartition(
                f"{dataset}/{stage} of {day} is not in the lake at {self.root}; materialise it first: "
                f"{_command([stage], dataset, day, day)}"
            )
        if fingerprint is not None:
            found = self.manifest(stage, dataset, day).get("fingerprint")
            if found != fingerprint:
                raise StalePartition(
                    f"{dataset}/{stage} of {day} was made under the fingerprint {found}, and the catalog entry {dataset} "
                    f"now has {fingerprint}. Restore the entry as it was, or materialise the partition again: "
                    f"{_command([stage], dataset, since or day, day)}"
                )
        return self.partition(stage, dataset, day)

    def is_current(self, stage: str, dataset: str, day: str, fingerprint: str) -> bool:
        """Whether a partition is in the lake and was made under this fingerprint."""
        return self.has(stage, dataset, day) and self.manifest(stage, dataset, day).get("fingerprint") == fingerprint

    def manifest(self, stage: str, dataset: str, day: str) -> dict[str, Any]:
        """Reads a partition's manifest. Raises `MissingPartition` or `DamagedManifest`."""
        path = self.require(stage, dataset, day) / MANIFEST
        return _manifest(path, path.read_bytes())

    def digest(self, stage: str, dataset: str, day: str) -> str:
        """Returns a hash that changes with a partition's contents: the manifest's `digest`, or else the manifest's hash.

        Raises:
            MissingPartition: The partition is not in the lake.
            DamagedManifest: The manifest is not what was written.
        """
        path = self.require(stage, dataset, day) / MANIFEST
        data = path.read_bytes()
        return _manifest(path, data).get("digest") or hashlib.sha256(data).hexdigest()

    def readable_digest(self, stage: str, dataset: str, day: str) -> str:
        """Returns the `digest` of a partition; empty if it cannot be read, so that loading the partition says why."""
        try:
            return self.digest(stage, dataset, day)
        except (DamagedManifest, OSError):
            return ""

    def lineage(self, dataset: str, inputs: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
        """Returns the entry `lineage` of a manifest, which records the inputs of a partition.

        Args:
            dataset: The dataset's name.
            inputs: Stage and day of each partition that is read.

        Returns:
            `{"lineage": {"<stage>/<day>": digest, ...}}`.

        Raises:
            MissingPartition: An input is not in the lake.
        """
        return {"lineage": {f"{stage}/{day}": self.digest(stage, dataset, day) for stage, day in inputs}}

    def require_made_from(self, dataset: str, day: str, stages: Sequence[str]) -> None:
        """Checks that each stage of a day was made from the current contents of the next one.

        An input that was removed counts as unchanged.

        Args:
            dataset: The dataset's name.
            day: The partition key.
            stages: A stage, its input, the input of its input, and so on.

        Raises:
            MissingPartition: The first stage of the day is not in the lake.
            StalePartition: A stage was made from other contents of the next one.
        """
        self.require(stages[0], dataset, day)
        for number, (stage, source) in enumerate(pairwise(stages), 1):
            if not self.has(stage, dataset, day) or not self.has(source, dataset, day):
                continue
            found = self.manifest(stage, dataset, day).get("lineage", {}).get(f"{source}/{day}")
            if found != self.digest(source, dataset, day):
                raise StalePartition(
                    f"{dataset}/{stage} of {day} was made from other contents of {dataset}/{source}, which has been "
                    f"materialised again since. Materialise what depends on it again: "
                    f"{_command(stages[:number][::-1], dataset, day, day)}"
                )

    def is_outdated(self, stage: str, dataset: str, day: str) -> bool:
        """Whether an input of a partition has changed since it was made. An input that was removed counts as unchanged."""
        found: dict[str, str] = self.manifest(stage, dataset, day).get("lineage", {})
        inputs = [(*place.rsplit("/", 1), digest) for place, digest in found.items()]
        return any(self.has(s, dataset, d) and self.digest(s, dataset, d) != digest for s, d, digest in inputs)

    def days(self, stage: str, dataset: str) -> list[str]:
        """Lists the days of a stage that are in the lake, in order."""
        folder = self.root / stage / dataset
        if not folder.exists():
            return []
        return sorted(p.name for p in folder.iterdir() if not p.name.startswith(".") and (p / MANIFEST).exists())

    @staticmethod
    def write_manifest(staging: UPath, manifest: dict[str, Any]) -> None:
        """Writes a partition's manifest. Call it last in a `write` block."""
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))

    def discard(self, stage: str, dataset: str, day: str) -> None:
        """Removes a partition and the leftovers of killed writers, if there are any.

        The manifest is removed first, so that an incomplete partition is never visible.
        """
        folder = self.partition(stage, dataset, day)
        (folder / MANIFEST).unlink(missing_ok=True)
        _remove(folder)
        _remove(self.staging_path(stage, dataset, day))

    def staging_path(self, stage: str, dataset: str, day: str) -> UPath:
        """Returns the folder in which a partition is written before it is renamed into place.

        Other processes can write to it while one process is in `write`.
        """
        return self.partition(stage, dataset, day).parent / ".staging" / day

    def lock_path(self, stage: str, dataset: str, day: str) -> UPath:
        """Returns the file that a writer of a partition locks on a local disk. It stays when the partition is removed."""
        return self.partition(stage, dataset, day).parent / ".locks" / f"{day}.lock"

    @contextmanager
    def write(self, stage: str, dataset: str, day: str) -> Iterator[UPath]:
        """Context manager that yields an empty folder to write a partition to.

        When the block ends without an exception, the folder replaces the partition in the lake. Leftovers of a killed writer
        are removed first, and a partition that it was about to replace is restored.

        Raises:
            ValueError: The block wrote no manifest.
            BusyPartition: Another process or thread is writing the partition.
        """
        with self._alone(stage, dataset, day), self._written(stage, dataset, day) as staging:
            yield staging

    def _alone(self, stage: str, dataset: str, day: str) -> AbstractContextManager[None]:
        """Excludes other writers of the partition on a local disk, by a lock that is released if the process is killed."""
        path = self.lock_path(stage, dataset, day)
        busy = BusyPartition(f"{dataset}/{stage} of {day} is being written by another run; wait for it, then try again")
        return exclusive(path.path, busy) if is_local(path) else nullcontext()

    @contextmanager
    def _written(self, stage: str, dataset: str, day: str) -> Iterator[UPath]:
        final = self.partition(stage, dataset, day)
        staging = self.staging_path(stage, dataset, day)
        replaced = final.parent / ".staging" / f"{day}.replaced"
        if is_local(final) and replaced.exists() and not final.exists():
            Path(replaced.path).rename(final.path)
        for left in (staging, replaced):
            _remove(left)
        staging.mkdir(parents=True)
        try:
            yield staging
            if not (staging / MANIFEST).exists():
                raise ValueError(f"{staging}: a partition without {MANIFEST} cannot be committed")
        except BaseException:
            _remove(staging)
            raise
        _commit(staging, final, replaced)


def _command(stages: Iterable[str], dataset: str, first: str, last: str) -> str:
    """Returns the shell command that materialises stages from one day to another."""
    days = f"--partition {last}" if first == last else f"--partition-range {first}...{last}"
    selection = ",".join(f"{dataset}/{stage}" for stage in stages)
    return f"dagster asset materialize -m orchestration.definitions --select {selection} {days}"


def _manifest(path: UPath, data: bytes) -> dict[str, Any]:
    """Return the manifest in the bytes of a file. Raises `DamagedManifest`."""
    way_out = "restore the file from a copy, or materialise the partition again"
    try:
        found = json.loads(data)
    except ValueError as error:  # not UTF-8, or not JSON
        raise DamagedManifest(f"{path} cannot be read ({error}); {way_out}") from error
    if not isinstance(found, dict) or not isinstance(found.get("digest", ""), str):
        raise DamagedManifest(
            f"{path}: expected an object of JSON whose `digest`, if present, is a string, found {data!r:.80}; {way_out}"
        )
    return found


def _commit(staging: UPath, final: UPath, replaced: UPath) -> None:
    """Replaces the partition in the lake with a complete one."""
    if is_local(final):
        _flush(staging)
        if final.exists():
            Path(final.path).rename(replaced.path)
        Path(staging.path).rename(final.path)
        _remove(replaced)
        return
    # Object stores cannot rename. A partition is visible while it has a manifest: that is deleted first and written last.
    fs = final.fs
    if final.exists():
        (final / MANIFEST).unlink(missing_ok=True)
        _remove(final)
    files = sorted(fs.find(staging.path), key=lambda path: path == (staging / MANIFEST).path)
    for file in files:
        target = file.replace(staging.path.rstrip("/"), final.path.rstrip("/"), 1)
        fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        fs.copy(file, target)
    _remove(staging)


def _remove(path: UPath) -> None:
    if path.exists():
        path.fs.rm(path.path, recursive=True)


def is_local(path: UPath) -> bool:
    """Whether a path is of this machine's filesystem, which can rename."""
    return path.protocol in ("", "file")


def _flush(folder: UPath) -> None:
    """Flushes all files to disk, so that the rename does not become durable before them."""
    for path in Path(folder.path).rglob("*"):
        if path.is_file():
            fsync(path)
