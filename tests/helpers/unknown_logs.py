"""Folders of logs that no entry describes, with the keys that a sketch must find. Every file is drawn from a seed."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2025, 3, 1, tzinfo=UTC)
DAYS = 3


def _times(draw: random.Random, rows: int, days: int = DAYS) -> list[datetime]:
    """Times in order, some on each day."""
    each = [
        START + timedelta(days=day, seconds=86_400 * (n + draw.random()) / rows) for day in range(days) for n in range(rows)
    ]
    return sorted(each)


def policy_log(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Impressions of a logging policy: position, propensity and columns of the context, in csv with a header."""
    with (folder / "all.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(
            [
                "",
                "timestamp",
                "item_id",
                "position",
                "click",
                "propensity_score",
                "user_feature_0",
                "age_group",
                "user-item_affinity_0",
            ]
        )
        for n, at in enumerate(_times(draw, 400)):
            context = [f"{draw.randrange(8):04x}f", f"{draw.randrange(20, 60, 10)}s", round(draw.expovariate(1), 4)]
            clicked = int(draw.random() < 0.1)
            out.writerow(
                [
                    n,
                    at.isoformat(" "),
                    draw.randrange(80),
                    draw.randrange(1, 4),
                    clicked,
                    0.0125 * draw.randrange(1, 9),
                    *context,
                ]
            )
    return {
        "time.column": "timestamp",
        "time.unit": "iso8601",
        "item": "item_id",
        "label": {"column": "click"},
        "out": ["propensity_score"],
    }


def sparse_years(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Ratings over years, a few a day, with `::` replaced by semicolons and without names."""
    rows = []
    for _ in range(3000):
        at = START - timedelta(days=draw.randrange(900), seconds=draw.randrange(86_400))
        user, stars = int(draw.paretovariate(0.6)) % 500, draw.choice((1, 2, 3, 4, 4, 5))
        rows.append(f"{user};{draw.randrange(700)};{stars};{int(at.timestamp())}")
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n")
    return {
        "time.column": "c4",
        "time.unit": "s",
        "user": "c1",
        "item": "c2",
        "label": {"column": "c3", "at_least": 4},
        "separator": ";",
    }


def daily_events(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Actions of several kinds in JSON lines, in a file per day."""
    (folder / "README.md").write_text("# The logs\n")
    for day in range(DAYS):
        lines = []
        for n in range(300):
            at = START + timedelta(days=day, seconds=280 * n)
            action = draw.choice(("view", "view", "view", "addtocart", "transaction"))
            line = {"eventTime": int(at.timestamp() * 1000), "visitorId": f"v{draw.randrange(90)}", "event": action}
            lines.append(
                json.dumps(
                    line
                    | {
                        "productId": draw.randrange(50),
                        "price": draw.choice((None, 3.5, 19.9, 250.0)),
                        "tags": draw.sample("abcdef", 2),
                    }
                )
            )
        with gzip.open(folder / f"events-{(START + timedelta(days=day)).date()}.jsonl.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    label = {"column": "event", "is": ["addtocart", "transaction"]}
    return {
        "time.column": "eventTime",
        "time.unit": "ms",
        "user": "visitorId",
        "item": "productId",
        "label": label,
        "files": "events-%Y-%m-%d.jsonl.gz",
        "types": {"tags": "list<string>"},
    }


def partitioned(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Parquet in folders of days, as Spark writes them, with timestamps."""
    for day in range(DAYS):
        at = START + timedelta(days=day)
        held = folder / f"day={at.date()}"
        held.mkdir()
        (held / "_SUCCESS").touch()
        for part in range(2):
            rows = 200
            table = {
                "request_id": [f"r{day}-{part}-{n}" for n in range(rows)],
                "ts": pa.array([at + timedelta(seconds=200 * (2 * n + part)) for n in range(rows)], pa.timestamp("us", "UTC")),
                "customer_id": [draw.randrange(70) for _ in range(rows)],
                "article": [f"a{draw.randrange(40)}" for _ in range(rows)],
                "clicked": [draw.random() < 0.2 for _ in range(rows)],
                "purchased": [draw.random() < 0.02 for _ in range(rows)],
                "topics": [draw.choice(("news|sport", "news", "sport|ads", "ads|news")) for _ in range(rows)],
            }
            pq.write_table(pa.table(table), held / f"part-{part:05d}-8f14e45f-ceea-467f-a8f3-{part:012d}.snappy.parquet")
    return {
        "time.column": "ts",
        "time.unit": "us",
        "user": "customer_id",
        "item": "article",
        "label": {"column": "clicked"},
        "files": "day=%Y-%m-%d/part-*-*.snappy.parquet",
        "out": ["request_id", "purchased"],
    }


def clocks(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Plays of songs, of which all are positives: date and time of day in two columns, separated by tabs."""
    with (folder / "plays.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["date", "clock", "listener", "account", "song", "device"])
        for at in _times(draw, 300):
            row = [at.strftime("%d/%m/%Y"), at.strftime("%H:%M:%S"), "web", f"u{draw.randrange(60)}", f"s{draw.randrange(90)}"]
            out.writerow([*row, draw.choice(("phone", "desktop"))])
    return {
        "time.column": "date",
        "time.clock": "clock",
        "time.format": "%d/%m/%Y %H:%M:%S",
        "user": "account",
        "item": "song",
        "label": None,
    }


def labelled_lines(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Lines of a news page without names: a request, a user, a time, what the user read, and the shown items with labels."""
    lines = []
    for n, at in enumerate(_times(draw, 200)):
        read = " ".join(f"n{draw.randrange(60)}" for _ in range(draw.randrange(0, 5)))
        shown = " ".join(f"n{draw.randrange(60)}-{int(draw.random() < 0.2)}" for _ in range(draw.randrange(1, 6)))
        lines.append(f"imp-{n}\tu{draw.randrange(50)}\t{at:%m/%d/%Y %I:%M:%S %p}\t{read}\t{shown}")
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "c3",
        "time.format": "%m/%d/%Y %I:%M:%S %p",
        "user": "c2",
        "item": "item",
        "label": {"column": "clicked"},
        "out": ["c1"],
    }


def _nested(draw: random.Random, at: datetime) -> dict[str, Any]:
    """An event whose values are within objects."""
    geo = draw.choice(({"country": draw.choice(("de", "fr")), "city": f"c{draw.randrange(9)}"}, None))
    return {
        "meta": {"ts": int(at.timestamp())},
        "user": {"id": f"u{draw.randrange(60)}", "geo": geo},
        "article": {"id": draw.randrange(50), "topics": draw.sample(("news", "sport", "ads"), 2)},
        "clicked": int(draw.random() < 0.2),
    }


_WITHIN_OBJECTS = {
    "time.column": "meta_ts",
    "time.unit": "s",
    "user": "user_id",
    "item": "article_id",
    "label": {"column": "clicked"},
    "types": {"article_topics": "list<string>", "user_geo_city": "string"},
    "paths": {
        "meta_ts": "meta.ts",
        "user_id": "user.id",
        "user_geo_country": "user.geo.country",
        "user_geo_city": "user.geo.city",
        "article_id": "article.id",
        "article_topics": "article.topics",
    },
}


def nested_objects(folder: Path, draw: random.Random) -> dict[str, Any]:
    """JSON lines of objects, with a map of many keys that is no column."""
    lines = [json.dumps(_nested(draw, at) | {"seen": {f"u{draw.randrange(900)}": 1}}) for at in _times(draw, 200)]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return {**_WITHIN_OBJECTS, "out": ["seen"]}


def structs(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same in Parquet, as structs."""
    pq.write_table(pa.Table.from_pylist([_nested(draw, at) for at in _times(draw, 200)]), folder / "events.parquet")
    return _WITHIN_OBJECTS


def fixed_width(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Columns filled up with blanks, as databases print them, in which some values are nothing but blanks."""
    lines = ["when|customer|sku|shelf|bought"]
    for at in _times(draw, 200):
        shelf = draw.choice(("north", "south", ""))
        sku = draw.randrange(50)
        lines.append(f"{at:%Y-%m-%d %H:%M:%S}|u{draw.randrange(60):<6}|{sku:>6}|{shelf:<8}|{int(draw.random() < 0.2)}")
    (folder / "report.txt").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "when",
        "time.unit": "iso8601",
        "user": "customer",
        "item": "sku",
        "label": {"column": "bought"},
        "separator": "|",
        "types": {"sku": "int", "shelf": "string"},
        "keys": {"trim": True},
    }


def pandas_ints(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Ids that pandas wrote as floats, because some are missing; prices are floats in earnest."""
    lines = ["ts,user_id,item_id,coupon,age,price,click"]
    for at in _times(draw, 200):
        coupon = draw.choice(("", "", f"{draw.randrange(9)}.0"))
        age = draw.choice(("", f"{draw.randrange(18, 80)}.0"))
        row = [int(at.timestamp()), f"{draw.randrange(60)}.0", f"{draw.randrange(50)}.0", coupon, age, draw.randrange(90) / 2]
        lines.append(",".join(map(str, [*row, int(draw.random() < 0.2)])))
    (folder / "frame.csv").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "ts",
        "time.unit": "s",
        "user": "user_id",
        "item": "item_id",
        "label": {"column": "click"},
        "types": {"user_id": "int", "item_id": "int", "coupon": "int", "age": "int", "price": "float"},
        "keys": {"decimal_ints": True},
    }


def hashed_ids(folder: Path, draw: random.Random) -> dict[str, Any]:
    """JSON lines with unsigned 64-bit hashes, alone and in lists, and ids of 19 digits that are signed."""
    hashes = [draw.getrandbits(64) for _ in range(60)]
    lines = []
    for at in _times(draw, 200):
        row = {"ts": at.isoformat(), "user": draw.choice(hashes), "ad_id": 1_800_000_000_000_000_000 + draw.randrange(50)}
        lines.append(json.dumps(row | {"segments": draw.sample(hashes, 2), "clicked": draw.random() < 0.2}))
    (folder / "ads.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "ts",
        "time.unit": "iso8601",
        "user": "user",
        "item": "ad_id",
        "label": {"column": "clicked"},
        "types": {"user": "int", "ad_id": "int", "segments": "list<int>"},
        "keys": {"unsigned": ["user", "segments"]},
    }


def hashed_texts(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same hashes in csv."""
    hashes = [draw.getrandbits(64) for _ in range(60)]
    lines = ["ts,uid,ad_id,clicked"]
    for at in _times(draw, 200):
        ad = 1_800_000_000_000_000_000 + draw.randrange(50)
        lines.append(f"{at.isoformat()},{draw.choice(hashes)},{ad},{int(draw.random() < 0.2)}")
    (folder / "ads.csv").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "ts",
        "time.unit": "iso8601",
        "user": "uid",
        "item": "ad_id",
        "label": {"column": "clicked"},
        "types": {"uid": "int", "ad_id": "int"},
        "keys": {"unsigned": ["uid"]},
    }


def reviews(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Reviews whose quoted texts have line ends, the first of them after many rows."""
    with (folder / "reviews.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["review_time", "reviewer", "product_id", "text", "stars"])
        for n, at in enumerate(_times(draw, 200)):
            text = " ".join(draw.choices(("good", "bad, really", 'a "hit"', "fine"), k=12))
            text = text.replace(" ", "\n\n", 2) if n > 250 and n % 3 == 0 else text
            row = [at.strftime("%Y-%m-%d %H:%M:%S"), f"A{draw.randrange(60)}", f"p{draw.randrange(50)}"]
            out.writerow([*row, text, draw.randrange(1, 6)])
    return {
        "time.column": "review_time",
        "time.unit": "iso8601",
        "user": "reviewer",
        "item": "product_id",
        "label": {"column": "stars", "at_least": 4},
        "out": ["text"],
        "keys": {"multiline": True},
        "rows": 600,
    }


def warehouse(folder: Path, draw: random.Random) -> dict[str, Any]:
    """A table of a warehouse in Parquet: unsigned hashes, ids as decimals and doubles, prices as decimals, and NaN."""
    times = _times(draw, 200)
    rows, hashes = len(times), [draw.getrandbits(64) for _ in range(60)]
    table = {
        "created": pa.array([int(at.timestamp() * 1e9) for at in times], pa.timestamp("ns")),
        "user_key": pa.array([draw.choice(hashes) for _ in times], pa.uint64()),
        "product_id": pa.array([Decimal(draw.randrange(50)) for _ in times], pa.decimal128(38, 0)),
        "campaign_id": pa.array([draw.choice((None, 3.0, 4.0, 5.0)) for _ in times], pa.float64()),
        "price": pa.array([Decimal(draw.randrange(9999)) / 100 for _ in times], pa.decimal128(10, 2)),
        "score": pa.array([draw.choice((float("nan"), draw.random())) for _ in times], pa.float64()),
        "vector": pa.array([[draw.random(), draw.random()] for _ in times], pa.list_(pa.float32())),
        "views": pa.array([draw.randrange(500) for _ in range(rows)], pa.uint64()),
        "clicked": pa.array([draw.random() < 0.2 for _ in times]),
    }
    pq.write_table(pa.table(table), folder / "export.parquet")
    return {
        "time.column": "created",
        "time.unit": "us",
        "user": "user_key",
        "item": "product_id",
        "label": {"column": "clicked"},
        "types": {"product_id": "int", "campaign_id": "int", "price": "float", "score": "float", "views": "int"},
        "keys": {"unsigned": ["user_key"]},
        "out": ["vector"],
    }


def stray_quotes(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Queries in tsv, in which quotes are characters like others."""
    texts = ('5" pipe', '"exact phrase"', 'say "hi" now', '"open', "back\\slash", "plain", "", "it's")
    lines = ["ts\tuid\tquery\titem\tclk"]
    for at in _times(draw, 200):
        row = [at.isoformat(), draw.randrange(60), draw.choice(texts), f"p{draw.randrange(40)}", int(draw.random() < 0.2)]
        lines.append("\t".join(map(str, row)))
    (folder / "queries.tsv").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "ts",
        "time.unit": "iso8601",
        "user": "uid",
        "item": "item",
        "label": {"column": "clk"},
        "rows": 600,
    }


def spreadsheet(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Names with blanks, UUIDs, decimal commas, and a label of words, which is negative on the first day."""
    users, items = ([str(UUID(int=draw.getrandbits(128))) for _ in range(count)] for count in (60, 40))
    lines = ["Timestamp;User Id;Item Id;Price;Born;Outcome"]
    for n, at in enumerate(_times(draw, 200)):
        price, born = (
            f"{draw.randrange(99)},{draw.randrange(10, 99)}",
            f"{draw.randrange(1950, 2005)}-01-0{draw.randrange(1, 9)}",
        )
        outcome = "click" if n >= 200 and draw.random() < 0.2 else "no-click"
        lines.append(f"{at:%d.%m.%Y %H:%M:%S};{draw.choice(users)};{{{draw.choice(items)}}};{price};{born};{outcome}")
    (folder / "export.csv").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "Timestamp",
        "time.format": "%d.%m.%Y %H:%M:%S",
        "user": "User Id",
        "item": "Item Id",
        "label": {"column": "Outcome", "is": ["click"]},
        "separator": ";",
        "out": ["Price", "Born"],
    }


def parallel_lists(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Pages of a shop in JSON lines: lists of the shown items, hashed, and of the clicks on them."""
    items, lines = [draw.getrandbits(64) for _ in range(40)], []
    for at in _times(draw, 200):
        shown = draw.sample(items, draw.randrange(1, 5))
        clicks = [int(draw.random() < 0.2) for _ in shown]
        lines.append(json.dumps({"t": at.isoformat(), "uid": draw.randrange(60), "items": shown, "clicks": clicks}))
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n")
    return {
        "time.column": "t",
        "time.unit": "iso8601",
        "user": "uid",
        "item": "item",
        "label": {"column": "click"},
        "types": {"item": "int", "click": "int"},
        "keys": {"unsigned": ["item"]},
    }


_MAKERS = (
    *(policy_log, sparse_years, daily_events, partitioned, clocks, labelled_lines, nested_objects, structs),
    *(fixed_width, pandas_ints, hashed_ids, hashed_texts, reviews, warehouse, stray_quotes, spreadsheet, parallel_lists),
)
LOGS: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {make.__name__: make for make in _MAKERS}
"""Name -> function that writes a log into an empty folder and returns what a sketch must find."""
