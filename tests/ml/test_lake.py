"""A partition becomes visible as a whole or not at all, whatever happens to its writer."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from upath import UPath

from ml.lake import BusyPartition, DamagedManifest, Lake, MissingPartition, StalePartition

DAY = ("raw_logs", "shop", "2025-03-01")


def write(lake: Lake, text: str) -> None:
    with lake.write(*DAY) as staging:
        (staging / "rows.txt").write_text(text)
        lake.write_manifest(staging, {"rows": len(text)})


def test_a_partition_is_there_after_its_block_and_not_before(lake: Lake):
    with lake.write(*DAY) as staging:
        (staging / "rows.txt").write_text("a")
        lake.write_manifest(staging, {"rows": 1})
        assert not lake.has(*DAY)
    assert lake.has(*DAY)
    assert lake.manifest(*DAY) == {"rows": 1}
    assert lake.days(*DAY[:2]) == [DAY[2]]


def test_a_partition_of_another_fingerprint_is_refused_with_the_way_out(lake: Lake):
    with lake.write(*DAY) as staging:
        lake.write_manifest(staging, {"fingerprint": "old"})
    assert lake.require(*DAY, fingerprint="old") == lake.require(*DAY) == lake.partition(*DAY)
    with pytest.raises(
        StalePartition, match=r"shop/raw_logs of 2025-03-01 was made under .* old, .* shop now has new"
    ) as error:
        lake.require(*DAY, fingerprint="new")
    assert str(error.value).endswith("--select shop/raw_logs --partition 2025-03-01")
    with pytest.raises(StalePartition, match=r"--partition-range 2025-02-01\.\.\.2025-03-01$"):
        lake.require(*DAY, fingerprint="new", since="2025-02-01")
    assert [lake.is_current(*DAY, fingerprint) for fingerprint in ("old", "new")] == [True, False]


def test_a_partition_without_a_fingerprint_is_none_of_the_entry(lake: Lake):
    write(lake, "old")
    with pytest.raises(StalePartition, match="the fingerprint None"):
        lake.require(*DAY, fingerprint="new")
    with pytest.raises(MissingPartition):
        lake.require(DAY[0], DAY[1], "2025-03-02", fingerprint="new")
    assert not lake.is_current(DAY[0], DAY[1], "2025-03-02", "new")


def test_a_failed_writer_leaves_the_partition_that_was_there(lake: Lake):
    write(lake, "old")
    with pytest.raises(RuntimeError, match="boom"), lake.write(*DAY) as staging:
        (staging / "rows.txt").write_text("half")
        raise RuntimeError("boom")
    assert (lake.require(*DAY) / "rows.txt").read_text() == "old"
    write(lake, "new")
    assert (lake.require(*DAY) / "rows.txt").read_text() == "new"
    assert [p.name for p in (lake.root / DAY[0] / DAY[1] / ".staging").iterdir()] == []


def test_two_writers_of_one_partition_do_not_mix(lake: Lake):
    with lake.write(*DAY) as staging:
        with (
            pytest.raises(BusyPartition, match="shop/raw_logs of 2025-03-01 is being written by another run"),
            lake.write(*DAY),
        ):
            pass
        (staging / "rows.txt").write_text("mine")
        lake.write_manifest(staging, {"rows": 4})
    assert (lake.require(*DAY) / "rows.txt").read_text() == "mine"
    write(lake, "next")


def test_a_partition_that_was_about_to_be_replaced_is_not_lost(lake: Lake):
    """A writer is killed between the two renames of a commit, and the next write fails."""
    write(lake, "old")
    final = Path(lake.partition(*DAY).path)
    final.rename(final.parent / ".staging" / f"{DAY[2]}.replaced")
    assert not lake.has(*DAY)
    with pytest.raises(RuntimeError, match="boom"), lake.write(*DAY):
        raise RuntimeError("boom")
    assert (lake.require(*DAY) / "rows.txt").read_text() == "old"


def test_a_partition_without_a_manifest_is_refused(lake: Lake):
    with pytest.raises(ValueError, match="manifest"), lake.write(*DAY) as staging:
        (staging / "rows.txt").write_text("a")
    assert not lake.has(*DAY)


@pytest.mark.parametrize("damage", [b"\xff\xfe\x00", b"[]", b"{", b'{"digest": []}'])
def test_a_damaged_manifest_is_named_with_the_way_out(damage: bytes, lake: Lake):
    with lake.write(*DAY) as staging:
        lake.write_manifest(staging, {})
    (lake.partition(*DAY) / "manifest.json").write_bytes(damage)
    for read in (lake.manifest, lake.digest):
        with pytest.raises(DamagedManifest, match=r"manifest\.json.*materialise the partition again"):
            read(*DAY)
    assert lake.readable_digest(*DAY) == ""


def test_a_missing_partition_says_which_and_how_to_make_it(lake: Lake):
    with pytest.raises(MissingPartition, match=r"shop/raw_logs of 2025-03-01 .* --partition 2025-03-01"):
        lake.require(*DAY)


def test_a_partition_knows_when_what_it_was_made_from_is_another(lake: Lake):
    def derive(digest: str | None = None) -> None:
        made_from = lake.lineage("shop", [("raw_logs", DAY[2])])
        with lake.write("cleaned_features", "shop", DAY[2]) as staging:
            lake.write_manifest(staging, made_from | ({"digest": digest} if digest else {}))

    write(lake, "a")
    derive()
    assert not lake.is_outdated("cleaned_features", "shop", DAY[2])
    write(lake, "a")  # the same again
    assert not lake.is_outdated("cleaned_features", "shop", DAY[2])
    write(lake, "ab")
    assert lake.is_outdated("cleaned_features", "shop", DAY[2])
    derive(digest="own")
    assert not lake.is_outdated("cleaned_features", "shop", DAY[2])
    assert lake.digest("cleaned_features", "shop", DAY[2]) == "own"
    lake.discard(*DAY)
    assert not lake.is_outdated("cleaned_features", "shop", DAY[2])


def test_a_stage_made_from_other_contents_is_refused_with_the_way_out(lake: Lake):
    stages = ["tuned_models/dlrm", "mds_datasets", "cleaned_features"]

    def make(stage: str, contents: str, *sources: str) -> None:
        made_from = lake.lineage("shop", [(source, DAY[2]) for source in sources])
        with lake.write(stage, "shop", DAY[2]) as staging:
            lake.write_manifest(staging, {"digest": contents} | made_from)

    def require() -> None:
        lake.require_made_from("shop", DAY[2], stages)

    with pytest.raises(MissingPartition, match="shop/tuned_models/dlrm of 2025-03-01"):
        require()
    make("cleaned_features", "a")
    make("mds_datasets", "a", "cleaned_features")
    make("tuned_models/dlrm", "a", "mds_datasets")
    require()
    make("cleaned_features", "a")
    require()
    make("cleaned_features", "b")
    with pytest.raises(StalePartition, match=r"shop/mds_datasets of .* other contents of shop/cleaned_features") as error:
        require()
    assert str(error.value).endswith("--select shop/mds_datasets,shop/tuned_models/dlrm --partition 2025-03-01")
    make("mds_datasets", "b", "cleaned_features")
    with pytest.raises(StalePartition, match=r"shop/tuned_models/dlrm of .* --select shop/tuned_models/dlrm "):
        require()
    make("tuned_models/dlrm", "b", "mds_datasets")
    require()
    make("cleaned_features", "c")
    lake.discard("mds_datasets", "shop", DAY[2])
    require()


def test_any_filesystem_will_do():
    lake = Lake.at(UPath("memory://evergreen-test-lake"))
    write(lake, "abc")
    write(lake, "abcd")
    assert lake.manifest(*DAY) == {"rows": 4}
    assert lake.days(*DAY[:2]) == [DAY[2]]


WRITER = """
import sys, time
from ml.lake import Lake
lake = Lake.at(sys.argv[1])
with lake.write("raw_logs", "shop", "2025-03-01") as staging:
    (staging / "rows.txt").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_nothing_that_is_seen_and_the_next_one_cleans_up(lake: Lake):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(lake.root)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout and writer.stdout.readline() == "writing\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert not lake.has(*DAY) and lake.days(*DAY[:2]) == []
    write(lake, "whole")
    assert (lake.require(*DAY) / "rows.txt").read_text() == "whole"
    assert sorted(p.name for p in Path(str(lake.partition(*DAY))).iterdir()) == ["manifest.json", "rows.txt"]
