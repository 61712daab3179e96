"""Folders of logs whose values need keys of `source`, with what a sketch must find. Every file is drawn from a seed."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from tests.helpers.unknown_logs import iso_times, roles, times


def fixed_width(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Columns filled up with blanks, as databases print them, in which some values are nothing but blanks."""
    lines = ["when|customer|sku|shelf|bought"]
    for at in times(draw, 200):
        shelf = draw.choice(("north", "south", ""))
        sku = draw.randrange(50)
        lines.append(f"{at:%Y-%m-%d %H:%M:%S}|u{draw.randrange(60):<6}|{sku:>6}|{shelf:<8}|{int(draw.random() < 0.2)}")
    (folder / "report.txt").write_text("\n".join(lines) + "\n")
    return roles(
        {"column": "when", "unit": "iso8601"},
        "customer",
        "sku",
        "bought",
        separator="|",
        types={"sku": "int", "shelf": "string"},
        keys={"trim": True},
        rows=600,
    )


def pandas_ints(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Ids that pandas wrote as floats, because some are missing; prices are floats in earnest."""
    lines = ["ts,user_id,item_id,coupon,age,price,click"]
    for at in times(draw, 200):
        coupon = draw.choice(("", "", f"{draw.randrange(9)}.0"))
        age = draw.choice(("", f"{draw.randrange(18, 80)}.0"))
        row = [int(at.timestamp()), f"{draw.randrange(60)}.0", f"{draw.randrange(50)}.0", coupon, age, draw.randrange(90) / 2]
        lines.append(",".join(map(str, [*row, int(draw.random() < 0.2)])))
    (folder / "frame.csv").write_text("\n".join(lines) + "\n")
    return roles(
        {"column": "ts", "unit": "s"},
        "user_id",
        "item_id",
        "click",
        types={"user_id": "int", "item_id": "int", "coupon": "int", "age": "int", "price": "float"},
        keys={"decimal_ints": True},
        rows=600,
    )


def hashed_ids(folder: Path, draw: random.Random) -> dict[str, Any]:
    """JSON lines with unsigned 64-bit hashes, alone and in lists, and ids of 19 digits that are signed."""
    hashes = [draw.getrandbits(64) for _ in range(60)]
    lines = []
    for at in times(draw, 200):
        row = {"ts": at.isoformat(), "user": draw.choice(hashes), "ad_id": 1_800_000_000_000_000_000 + draw.randrange(50)}
        lines.append(json.dumps(row | {"segments": draw.sample(hashes, 2), "clicked": draw.random() < 0.2}))
    (folder / "ads.jsonl").write_text("\n".join(lines) + "\n")
    return iso_times(
        "user",
        "ad_id",
        "clicked",
        types={"user": "int", "ad_id": "int", "segments": "list<int>"},
        keys={"unsigned": ["user", "segments"]},
        rows=600,
    )


def hashed_texts(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same hashes in csv."""
    hashes = [draw.getrandbits(64) for _ in range(60)]
    lines = ["ts,uid,ad_id,clicked"]
    for at in times(draw, 200):
        ad = 1_800_000_000_000_000_000 + draw.randrange(50)
        lines.append(f"{at.isoformat()},{draw.choice(hashes)},{ad},{int(draw.random() < 0.2)}")
    (folder / "ads.csv").write_text("\n".join(lines) + "\n")
    return iso_times("uid", "ad_id", "clicked", types={"uid": "int", "ad_id": "int"}, keys={"unsigned": ["uid"]}, rows=600)


def reviews(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Reviews whose quoted texts have line ends, the first of them after many rows."""
    with (folder / "reviews.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["review_time", "reviewer", "product_id", "text", "stars"])
        for n, at in enumerate(times(draw, 200)):
            text = " ".join(draw.choices(("good", "bad, really", 'a "hit"', "fine"), k=12))
            text = text.replace(" ", "\n\n", 2) if n > 250 and n % 3 == 0 else text
            row = [at.strftime("%Y-%m-%d %H:%M:%S"), f"A{draw.randrange(60)}", f"p{draw.randrange(50)}"]
            out.writerow([*row, text, draw.randrange(1, 6)])
    return roles(
        {"column": "review_time", "unit": "iso8601"},
        "reviewer",
        "product_id",
        {"column": "stars", "at_least": 4},
        out=["text"],
        keys={"multiline": True},
        rows=600,
    )


def warehouse(folder: Path, draw: random.Random) -> dict[str, Any]:
    """A table of a warehouse in Parquet: unsigned hashes, ids as decimals and doubles, prices as decimals, and NaN."""
    instants = times(draw, 200)
    rows, hashes = len(instants), [draw.getrandbits(64) for _ in range(60)]
    table = {
        "created": pa.array([int(at.timestamp() * 1e9) for at in instants], pa.timestamp("ns")),
        "user_key": pa.array([draw.choice(hashes) for _ in instants], pa.uint64()),
        "product_id": pa.array([Decimal(draw.randrange(50)) for _ in instants], pa.decimal128(38, 0)),
        "campaign_id": pa.array([draw.choice((None, 3.0, 4.0, 5.0)) for _ in instants], pa.float64()),
        "price": pa.array([Decimal(draw.randrange(9999)) / 100 for _ in instants], pa.decimal128(10, 2)),
        "score": pa.array([draw.choice((float("nan"), draw.random())) for _ in instants], pa.float64()),
        "vector": pa.array([[draw.random(), draw.random()] for _ in instants], pa.list_(pa.float32())),
        "views": pa.array([draw.randrange(500) for _ in range(rows)], pa.uint64()),
        "clicked": pa.array([draw.random() < 0.2 for _ in instants]),
    }
    pq.write_table(pa.table(table), folder / "export.parquet")
    return roles(
        {"column": "created", "unit": "us"},
        "user_key",
        "product_id",
        "clicked",
        types={"product_id": "int", "campaign_id": "int", "price": "float", "score": "float", "views": "int"},
        keys={"unsigned": ["user_key"]},
        out=["vector"],
        rows=600,
    )


def stray_quotes(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Queries in tsv, in which quotes are characters like others."""
    texts = ('5" pipe', '"exact phrase"', 'say "hi" now', '"open', "back\\slash", "plain", "", "it's")
    lines = ["ts\tuid\tquery\titem\tclk"]
    for at in times(draw, 200):
        row = [at.isoformat(), draw.randrange(60), draw.choice(texts), f"p{draw.randrange(40)}", int(draw.random() < 0.2)]
        lines.append("\t".join(map(str, row)))
    (folder / "queries.tsv").write_text("\n".join(lines) + "\n")
    return iso_times("uid", "item", "clk", rows=600)


def spreadsheet(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Names with blanks, UUIDs, decimal commas, and a label of words, which is negative on the first day."""
    users, items = ([str(UUID(int=draw.getrandbits(128))) for _ in range(count)] for count in (60, 40))
    lines = ["Timestamp;User Id;Item Id;Price;Born;Outcome"]
    for n, at in enumerate(times(draw, 200)):
        price, born = (
            f"{draw.randrange(99)},{draw.randrange(10, 99)}",
            f"{draw.randrange(1950, 2005)}-01-0{draw.randrange(1, 9)}",
        )
        outcome = "click" if n >= 200 and draw.random() < 0.2 else "no-click"
        lines.append(f"{at:%d.%m.%Y %H:%M:%S};{draw.choice(users)};{{{draw.choice(items)}}};{price};{born};{outcome}")
    (folder / "export.csv").write_text("\n".join(lines) + "\n")
    return roles(
        {"column": "Timestamp", "format": "%d.%m.%Y %H:%M:%S"},
        "User Id",
        "Item Id",
        {"column": "Outcome", "is": ["click"]},
        separator=";",
        out=["Price", "Born"],
        rows=600,
    )


LOGS: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {
    make.__name__: make
    for make in (fixed_width, pandas_ints, hashed_ids, hashed_texts, reviews, warehouse, stray_quotes, spreadsheet)
}
"""Name -> function that writes a log into an empty folder and returns what a sketch must find."""
