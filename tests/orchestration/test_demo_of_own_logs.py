"""`make demo` trains on common formats: compressed files, local times without offsets, Apache's access log, labels -1 and 1."""

from __future__ import annotations

import bz2
import random
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml.lake import Lake
from ml.stages import MDS_DATASETS, RAW_LOGS, tuned_models
from tests.helpers.own_home import own_home
from tests.helpers.paths import ROOT

MARKET = """
name: market
description: Offers with the date and the clock of Berlin in two columns, on the days around the beginning of summer time.
source:
  files: "offers-%Y-%m-%d.csv.*"
  format: csv
  header: true
  columns: {date: string, clock: string, user: string, offer: int, taken: int, worth: float}
time: {column: date, clock: clock, format: "%d.%m.%Y %H:%M:%S", timezone: Europe/Berlin}
partitions: {start: 2026-03-28, end: 2026-03-30}
user: user
item: offer
label: {column: taken, is: [1], is_not: [-1], weight: worth}
sparse: [user, offer, {name: hour, hour_of_day: true}]
demo_days: 3
"""
SERVER = """
name: server
description: Lines of Apache's access log, on the days around the end of summer time in New York.
source:
  files: access.log
  format: csv
  separator: " "
  quoted: true
  columns: {host: string, identity: string, user: string, at: string, offset: string, request: string, status: int, bytes: int}
  null_tokens: ["", "-"]
time: {column: at, clock: offset, format: "[%d/%b/%Y:%H:%M:%S %z]", timezone: America/New_York}
partitions: {start: 2026-10-31, end: 2026-11-02}
user: user
item: request
label: {column: status, is: [201]}
dense: [{name: bytes, log1p: true}]
sparse: [user, request, host, {name: hour, hour_of_day: true}]
demo_days: 3
"""
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
    "lz4": lambda data: pa.Codec("lz4").compress(data, asbytes=True),
}
Times = dict[str, list[int]]
"""Day -> its event times, in microseconds since 1970 UTC, ascending."""


def instants(day: str, zone: ZoneInfo, rows: int) -> list[datetime]:
    """Times of a local day, in UTC, spread over its 23 to 25 hours."""
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    end = (datetime.fromisoformat(day) + timedelta(days=1)).replace(tzinfo=zone)
    span = end.timestamp() - begin.timestamp()
    return [datetime.fromtimestamp(begin.timestamp() + int(span * n / rows), UTC) for n in range(rows)]


def market(folder: Path, draw: random.Random) -> Times:
    zone, written = ZoneInfo("Europe/Berlin"), Times()
    for day, (suffix, pack) in zip(("2026-03-28", "2026-03-29", "2026-03-30"), PACKERS.items(), strict=True):
        lines = ["date,clock,user,offer,taken,worth"]
        times = instants(day, zone, 240)
        for at in times:
            offer = draw.randrange(20)
            taken = 1 if draw.random() < (0.6 if offer < 5 else 0.1) else -1
            lines.append(
                f"{at.astimezone(zone):%d.%m.%Y,%H:%M:%S},u{draw.randrange(30)},{offer},{taken},{draw.choice((1, 2.5))}"
            )
        (folder / f"offers-{day}.csv.{suffix}").write_bytes(pack("\n".join(lines).encode() + b"\n"))
        written[day] = [round(at.timestamp() * 1e6) for at in times]
    assert len({at.astimezone(zone).utcoffset() for at in instants("2026-03-29", zone, 240)}) == 2
    return written


def server(folder: Path, draw: random.Random) -> Times:
    zone, written, lines = ZoneInfo("America/New_York"), Times(), list[str]()
    for day in ("2026-10-31", "2026-11-01", "2026-11-02"):
        times = instants(day, zone, 240)
        for at in times:
            page = draw.randrange(20)
            status = 201 if draw.random() < (0.6 if page < 5 else 0.1) else draw.choice((200, 200, 404))
            user, size = draw.choice(("-", f"u{draw.randrange(30)}")), draw.choice(("-", str(draw.randrange(5000))))
            stamp = at.astimezone(zone).strftime("[%d/%b/%Y:%H:%M:%S %z]")
            lines.append(f'10.0.0.{draw.randrange(9)} - {user} {stamp} "GET /page/{page} HTTP/1.1" {status} {size}\n')
        written[day] = [round(at.timestamp() * 1e6) for at in times]
    (folder / "access.log").write_text("".join(lines))
    return written


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "write"), [(MARKET, market), (SERVER, server)], ids=["market", "server"])
def test_the_documented_command_trains_on_the_log(
    entry: str, write: Callable[[Path, random.Random], Times], tmp_path: Path
) -> None:
    name, logs, home = write.__name__, tmp_path / "logs", tmp_path / "home"
    logs.mkdir()
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / f"{name}.yaml").write_text(entry)
    written = write(logs, random.Random(7))
    env = own_home(home, tmp_path / "catalog")
    command = [sys.executable, "-m", "orchestration.demo", name, "--logs", str(logs)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lake = Lake.at(str(home))
    for day, times in written.items():
        assert lake.manifest(RAW_LOGS, name, day)["quarantined"] == 0
        rows = pq.read_table(lake.require(RAW_LOGS, name, day) / "rows").sort_by("event_time")
        assert rows["event_time"].to_pylist() == times
        assert lake.manifest(MDS_DATASETS, name, day)["rows"] == len(times) and lake.has(tuned_models("dlrm"), name, day)
