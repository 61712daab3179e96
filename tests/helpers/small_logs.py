"""Small logs in the layouts of real ones, with the catalog entries that fit them. Every entry and file is drawn from a seed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq

Entry = dict[str, Any]


def side_table(
    log_key: str, table_key: str, columns: list[str], files: str, kinds: dict[str, str], header: bool = True, **reading: Any
) -> Entry:
    """An element of `join`: `columns` of a table in csv files, or as `reading` says, with the types `kinds`."""
    source = {"files": files, "format": "csv", "header": header, "columns": kinds} | reading
    return {"log_key": log_key, "table_key": table_key, "columns": columns, "source": source}


def banner(folder: Path, draw: random.Random) -> Entry:
    """Criteo's layout: tab separated, no header, no clock, empty where missing."""
    rows = [
        [int(draw.random() < 0.25)]
        + ["" if draw.random() < 0.2 else draw.randrange(2, 400) for _ in range(3)]
        + [f"{draw.randrange(4096, 60_000):08x}" + "f" for _ in range(3)]
        for _ in range(draw.randrange(300, 900))
    ]
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (folder / "train.txt.gz").write_bytes(gzip.compress(text.encode()))
    columns = {"label": "int", "I1": "int", "I2": "int", "I3": "int", "C1": "string", "C2": "string", "C3": "string"}
    return {
        "source": {"files": "train.txt.gz", "format": "tsv", "columns": columns},
        "time": {"by_position": True},
        "partitions": {"start": "2014-01-01", "end": "2014-01-03"},
        "label": {"column": "label"},
        "dense": [{"name": "I1"}, {"name": "I2", "log1p": True}, {"name": "I3"}],
        "sparse": ["C1", "C2", "C3"],
    }


def news(folder: Path, draw: random.Random) -> Entry:
    """Globo's layout: a zip archive of hourly files with a header, positives only, milliseconds."""
    start = int(datetime(2017, 10, 1, tzinfo=ZoneInfo("America/Sao_Paulo")).timestamp() * 1000)
    with zipfile.ZipFile(folder / "clicks.zip", "w") as archive:
        for hour in range(48):
            lines = ["user_id,session,click_article_id,click_timestamp,device"]
            for _ in range(draw.randrange(10, 60)):
                at = start + hour * 3_600_000 + draw.randrange(3_600_000)
                lines.append(f"{draw.randrange(10**5)},{at},{draw.randrange(10**4)},{at},{draw.randrange(1, 6)}")
            archive.writestr(f"clicks/clicks_hour_{hour:03d}.csv", "\n".join(lines) + "\n")
        archive.writestr("clicks/readme.txt", "hourly clicks\n")
    names = ["user_id", "session", "click_article_id", "click_timestamp", "device"]
    return {
        "source": {
            "files": "clicks.zip",
            "members": "clicks/*.csv",
            "format": "csv",
            "header": True,
            "columns": dict.fromkeys(names, "int"),
        },
        "time": {"column": "click_timestamp", "unit": "ms", "timezone": "America/Sao_Paulo"},
        "partitions": {"start": "2017-10-01", "end": "2017-10-02"},
        "user": "user_id",
        "item": "click_article_id",
        "label": {"negatives": {"per_positive": 2, "recent": {"clicks_1h": 1}}},
        "dense": [{"name": "clicks_1h", "log1p": True}],
        "sparse": [{"name": "item", "column": "click_article_id"}, {"name": "user", "column": "user_id"}, "device"],
    }


def ratings(folder: Path, draw: random.Random) -> Entry:
    """MovieLens' layout: ratings in no order of time, and tables of items and users with typed headers."""
    start = int(datetime(1997, 9, 20, tzinfo=UTC).timestamp())
    rows = [
        (draw.randrange(1, 200), 5000 + draw.randrange(300), draw.randrange(1, 6), start + draw.randrange(20 * 86_400))
        for _ in range(draw.randrange(600, 1500))
    ]
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    genres = ["Action", "Comedy", "Drama", "Thriller", "War"]
    items = [f"{5000 + i}\tFilm {i}\t{1990 + i % 8}\t{' '.join(draw.sample(genres, draw.randrange(1, 4)))}" for i in range(300)]
    header = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"
    (folder / "ml.item").write_text("\n".join([header, *items]) + "\n")
    users = [f"{i}\t{draw.randrange(16, 70)}\t{draw.choice('MF')}" for i in range(1, 200)]
    (folder / "ml.user").write_text("\n".join(["user_id:token\tage:token\tgender:token", *users]) + "\n")
    return {
        "source": {
            "files": "u.data",
            "format": "tsv",
            "columns": {"user": "int", "item": "int", "rating": "int", "timestamp": "int"},
        },
        "time": {"column": "timestamp", "unit": "s"},
        "partitions": {"start": "1997-09-20", "end": "1997-10-09"},
        "user": "user",
        "item": "item",
        "label": {"column": "rating", "at_least": 3.5},
        "join": [
            side_table(
                "item",
                "item_id",
                ["genres"],
                "ml.item",
                {"item_id": "int", "movie_title": "string", "release_year": "int", "genres": "string"},
                format="tsv",
                rename={
                    "item_id:token": "item_id",
                    "movie_title:token_seq": "movie_title",
                    "release_year:token": "release_year",
                    "class:token_seq": "genres",
                },
            ),
            side_table(
                "user",
                "user_id",
                ["age", "gender"],
                "ml.user",
                {"user_id": "int", "age": "int", "gender": "string"},
                format="tsv",
                rename={"user_id:token": "user_id", "age:token": "age", "gender:token": "gender"},
            ),
        ],
        "dense": [{"name": "age"}],
        "sparse": ["user", "item", "gender", {"name": "genres", "split": " "}],
        "slices": ["gender"],
    }


def shop(folder: Path, draw: random.Random) -> Entry:
    """A shop's layout: gzipped JSON lines, one file a day, ISO 8601 times, and a table of products."""
    zone = ZoneInfo("Europe/Berlin")
    table = [f"{i},{draw.choice(('Acme', 'Globex'))},{draw.choice(('shoe', 'hat'))}" for i in range(700, 800)]
    (folder / "products.csv").write_text("\n".join(["id,brand,kind", *table]) + "\n")
    for number in range(3):
        midnight, rows = datetime(2025, 3, 1 + number, tzinfo=zone), draw.randrange(80, 300)
        lines = [
            json.dumps(
                {
                    "at": (midnight + timedelta(seconds=86_400 * i / rows)).isoformat(),
                    "visitor": f"v-{draw.randrange(100)}",
                    "product": draw.randrange(700, 800),
                    "page": draw.choice(("home", "search")),
                    "price": None if draw.random() < 0.1 else round(draw.uniform(1, 60), 2),
                    "labels": draw.choice(("", "red", "red,sale", "new,sale")),
                    "bought": int(draw.random() < 0.3),
                    "note": None,
                }
            )
            for i in range(rows)
        ]
        (folder / f"events-2025-03-{1 + number:02d}.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode() + b"\n"))
    return {
        "source": {
            "files": "events-%Y-%m-%d.jsonl.gz",
            "format": "jsonl",
            "columns": {
                "at": "string",
                "visitor": "string",
                "product": "int",
                "page": "string",
                "price": "float",
                "labels": "string",
                "bought": "int",
                "note": "string",
            },
        },
        "time": {"column": "at", "unit": "iso8601", "timezone": "Europe/Berlin"},
        "partitions": {"start": "2025-03-01", "end": "2025-03-03"},
        "user": "visitor",
        "item": "product",
        "label": {"column": "bought"},
        "join": [
            side_table("product", "id", ["brand", "kind"], "products.csv", {"id": "int", "brand": "string", "kind": "string"})
        ],
        "dense": [{"name": "price", "log1p": True}],
        "sparse": ["visitor", "product", "page", "brand", {"name": "labels", "split": ","}],
    }


def tracker(folder: Path, draw: random.Random) -> Entry:
    """A warehouse's layout: Parquet in folders by day, microseconds, a boolean label."""
    for number in range(2):
        start = int(datetime(2024, 6, 10 + number, tzinfo=UTC).timestamp() * 1e6)
        rows = draw.randrange(150, 500)
        part = folder / f"dt=2024-06-{10 + number}"
        part.mkdir()
        table = pa.table(
            {
                "ts": pa.array([start + 86_400_000_000 * i // rows for i in range(rows)]),
                "uid": pa.array([draw.randrange(10**12) for _ in range(rows)]),
                "sku": pa.array([f"S{draw.randrange(500)}" for _ in range(rows)]),
                "score": pa.array([draw.random() * 10 for _ in range(rows)]),
                "empty": pa.nulls(rows, pa.float64()),
                "site": pa.array([3] * rows),
                "hit": pa.array([draw.random() < 0.4 for _ in range(rows)]),
            }
        )
        pq.write_table(table, part / "a.parquet", row_group_size=100)
    return {
        "source": {
            "files": "dt=%Y-%m-%d/*.parquet",
            "format": "parquet",
            "columns": {
                "ts": "int",
                "uid": "int",
                "sku": "string",
                "score": "float",
                "empty": "float",
                "site": "int",
                "hit": "bool",
            },
        },
        "time": {"column": "ts", "unit": "us"},
        "partitions": {"start": "2024-06-10", "end": "2024-06-11"},
        "user": "uid",
        "item": "sku",
        "label": {"column": "hit"},
        "dense": [{"name": "score"}],
        "sparse": ["uid", "sku"],
    }


def bank(folder: Path, draw: random.Random) -> Entry:
    """An office's layout: semicolons, quotes, Latin-1, NA for missing, names of its own, one file a day."""
    zone, cities = ZoneInfo("America/Sao_Paulo"), ["São Paulo", "Brasília; DF", "Rio", "Goiânia", "Belém"]
    for number in range(3):
        text, rows = io.StringIO(), draw.randrange(150, 400)
        out = csv.writer(text, delimiter=";", quoting=csv.QUOTE_ALL, lineterminator="\r\n")
        out.writerow(["Data", "Cliente", "Oferta", "Cidade", "Saldo", "Aceito"])
        midnight = datetime(2023, 5, 8 + number, tzinfo=zone)
        for i in range(rows):
            at = (midnight + timedelta(seconds=86_400 * i / rows)).strftime("%Y-%m-%d %H:%M:%S")
            balance = "NA" if draw.random() < 0.2 else f"{draw.uniform(0, 1000):.2f}"
            out.writerow(
                [at, draw.randrange(500), f"{draw.randrange(40):05d}", draw.choice(cities), balance, draw.randrange(2)]
            )
        (folder / f"{8 + number:02d}-05-2023.csv").write_bytes(text.getvalue().encode("latin-1"))
    offers = "".join(f"{i:05d}|{draw.choice(('card', 'loan'))}|{i}\n" for i in range(40))
    (folder / "offers.txt").write_text(offers)
    return {
        "source": {
            "files": "%d-%m-%Y.csv",
            "format": "csv",
            "header": True,
            "separator": ";",
            "quoted": True,
            "encoding": "latin-1",
            "null_tokens": ["", "NA"],
            "columns": {
                "at": "string",
                "client": "int",
                "offer": "string",
                "city": "string",
                "balance": "float",
                "accepted": "int",
            },
            "rename": {
                "Data": "at",
                "Cliente": "client",
                "Oferta": "offer",
                "Cidade": "city",
                "Saldo": "balance",
                "Aceito": "accepted",
            },
        },
        "time": {"column": "at", "unit": "iso8601", "timezone": "America/Sao_Paulo"},
        "partitions": {"start": "2023-05-08", "end": "2023-05-10"},
        "user": "client",
        "item": "offer",
        "label": {"column": "accepted"},
        "join": [
            side_table(
                "offer",
                "code",
                ["product"],
                "offers.txt",
                {"code": "string", "product": "string", "rank": "int"},
                header=False,
                separator="|",
            )
        ],
        "dense": [{"name": "balance", "log1p": True}],
        "sparse": ["client", "offer", "city", "product"],
    }


LAYOUTS: dict[str, Callable[[Path, random.Random], Entry]] = {
    layout.__name__: layout for layout in (banner, news, ratings, shop, tracker, bank)
}


def write_log(layout: str, folder: Path, seed: int) -> Entry:
    """Writes the files of a layout, and returns the entry that fits them."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"name": layout, "description": "A small log."} | LAYOUTS[layout](folder, random.Random(seed))
