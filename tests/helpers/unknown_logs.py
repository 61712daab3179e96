"""Folders of logs that no entry describes, with the keys that a sketch must find. Every file is drawn from a seed."""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2025, 3, 1, tzinfo=UTC)
DAYS = 3


def times(draw: random.Random, rows: int, days: int = DAYS) -> list[datetime]:
    """Times in order, some on each day."""
    each = [
        START + timedelta(days=day, seconds=86_400 * (n + draw.random()) / rows) for day in range(days) for n in range(rows)
    ]
    return sorted(each)


def roles(time: dict[str, str], user: str | None, item: str, label: Any, **more: Any) -> dict[str, Any]:
    """What a sketch must find in a log.

    Args:
        time: Keys of `time`.
        user: Column of the user; None if there is none.
        item: Column of the item.
        label: Column of the label, or the keys of `label`; None if all rows are positives.
        more: Further things, such as `rows`.
    """
    label = {"column": label} if isinstance(label, str) else label
    return {**{f"time.{key}": of for key, of in time.items()}, "user": user, "item": item, "label": label, **more}


def iso_times(user: str, item: str, label: str | None, **more: Any) -> dict[str, Any]:
    """What a sketch must find in a log whose times are ISO 8601 in `ts`."""
    return roles({"column": "ts", "unit": "iso8601"}, user, item, label, **more)


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
        for n, at in enumerate(times(draw, 400)):
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
    time = {"column": "timestamp", "unit": "iso8601"}
    return roles(time, None, "item_id", "click", out=["propensity_score"], rows=1200)


def sparse_years(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Ratings over years, a few a day, with `::` replaced by semicolons and without names."""
    rows = []
    for _ in range(3000):
        at = START - timedelta(days=draw.randrange(900), seconds=draw.randrange(86_400))
        user, stars = int(draw.paretovariate(0.6)) % 500, draw.choice((1, 2, 3, 4, 4, 5))
        rows.append(f"{user};{draw.randrange(700)};{stars};{int(at.timestamp())}")
    (folder / "ratings.dat").write_text("\n".join(rows) + "\n")
    return roles({"column": "c4", "unit": "s"}, "c1", "c2", {"column": "c3", "at_least": 4}, separator=";")


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
    return roles(
        {"column": "eventTime", "unit": "ms"},
        "visitorId",
        "productId",
        label,
        files="events-%Y-%m-%d.jsonl.gz",
        types={"tags": "list<string>"},
        rows=900,
    )


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
    return roles(
        {"column": "ts", "unit": "us"},
        "customer_id",
        "article",
        "clicked",
        files="day=%Y-%m-%d/part-*-*.snappy.parquet",
        out=["request_id", "purchased"],
        rows=1200,
    )


def clocks(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Plays of songs, of which all are positives: date and time of day in two columns, separated by tabs."""
    with (folder / "plays.tsv").open("w", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["date", "clock", "listener", "account", "song", "device"])
        for at in times(draw, 300):
            row = [at.strftime("%d/%m/%Y"), at.strftime("%H:%M:%S"), "web", f"u{draw.randrange(60)}", f"s{draw.randrange(90)}"]
            out.writerow([*row, draw.choice(("phone", "desktop"))])
    return roles({"column": "date", "clock": "clock", "format": "%d/%m/%Y %H:%M:%S"}, "account", "song", None, rows=900)


def labelled_lines(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Lines of a news page without names: a request, a user, a time, what the user read, and the shown items with labels."""
    lines = []
    for n, at in enumerate(times(draw, 200)):
        read = " ".join(f"n{draw.randrange(60)}" for _ in range(draw.randrange(0, 5)))
        shown = " ".join(f"n{draw.randrange(60)}-{int(draw.random() < 0.2)}" for _ in range(draw.randrange(1, 6)))
        lines.append(f"imp-{n}\tu{draw.randrange(50)}\t{at:%m/%d/%Y %I:%M:%S %p}\t{read}\t{shown}")
    (folder / "behaviors.tsv").write_text("\n".join(lines) + "\n")
    return roles({"column": "c3", "format": "%m/%d/%Y %I:%M:%S %p"}, "c2", "item", "clicked", out=["c1"])


def _nested(draw: random.Random, at: datetime) -> dict[str, Any]:
    """An event whose values are within objects."""
    geo = draw.choice(({"country": draw.choice(("de", "fr")), "city": f"c{draw.randrange(9)}"}, None))
    return {
        "meta": {"ts": int(at.timestamp())},
        "user": {"id": f"u{draw.randrange(60)}", "geo": geo},
        "article": {"id": draw.randrange(50), "topics": draw.sample(("news", "sport", "ads"), 2)},
        "clicked": int(draw.random() < 0.2),
    }


_WITHIN_OBJECTS = roles(
    {"column": "meta_ts", "unit": "s"},
    "user_id",
    "article_id",
    "clicked",
    types={"article_topics": "list<string>", "user_geo_city": "string"},
    rows=600,
    paths={
        "meta_ts": "meta.ts",
        "user_id": "user.id",
        "user_geo_country": "user.geo.country",
        "user_geo_city": "user.geo.city",
        "article_id": "article.id",
        "article_topics": "article.topics",
    },
)


def nested_objects(folder: Path, draw: random.Random) -> dict[str, Any]:
    """JSON lines of objects, with a map of many keys that is no column."""
    lines = [json.dumps(_nested(draw, at) | {"seen": {f"u{draw.randrange(900)}": 1}}) for at in times(draw, 200)]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return {**_WITHIN_OBJECTS, "out": ["seen"]}


def structs(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same in Parquet, as structs."""
    pq.write_table(pa.Table.from_pylist([_nested(draw, at) for at in times(draw, 200)]), folder / "events.parquet")
    return _WITHIN_OBJECTS


def parallel_lists(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Pages of a shop in JSON lines: lists of the shown items, hashed, and of the clicks on them."""
    items, lines = [draw.getrandbits(64) for _ in range(40)], []
    for at in times(draw, 200):
        shown = draw.sample(items, draw.randrange(1, 5))
        clicks = [int(draw.random() < 0.2) for _ in shown]
        lines.append(json.dumps({"ts": at.isoformat(), "uid": draw.randrange(60), "items": shown, "clicks": clicks}))
    (folder / "pages.jsonl").write_text("\n".join(lines) + "\n")
    return iso_times("uid", "item", "click", types={"item": "int", "click": "int"}, keys={"unsigned": ["item"]})


def nested_lists(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same pages, with the lists within an object."""
    wanted = parallel_lists(folder, draw)
    pages = folder / "pages.jsonl"
    lines = [json.loads(line) for line in pages.read_text().splitlines()]
    moved = [{"ts": of["ts"], "uid": of["uid"], "page": {"items": of["items"], "clicks": of["clicks"]}} for of in lines]
    pages.write_text("\n".join(map(json.dumps, moved)) + "\n")
    paths = {"page_items": "page.items", "page_clicks": "page.clicks"}
    changed = {"item": "page_item", "label": {"column": "page_click"}, "types": {"page_item": "int", "page_click": "int"}}
    return {**wanted, **changed, "paths": paths, "keys": {"unsigned": ["page_item"]}}


def _page(draw: random.Random, at: datetime, items: list[int]) -> dict[str, Any]:
    """A page of a shop with the shown items, each an object with its price and whether it was clicked."""
    shown = [
        {"id": item, "product": {"brand": f"b{item % 7}"}, "price": 1.5 * (item % 9), "clicked": draw.random() < 0.2}
        for item in draw.sample(items, draw.randrange(0, 5))
    ]
    return {"ts": at.isoformat(), "uid": draw.randrange(60), "page": {"kind": draw.choice(("home", "search")), "items": shown}}


def _shown(pages: list[dict[str, Any]]) -> int:
    """Number of shown items of all pages."""
    return sum(len(page["page"]["items"]) for page in pages)


_SHOWN_OBJECTS: dict[str, Any] = iso_times(
    "uid",
    "page_item_id",
    "page_item_clicked",
    types={"page_item_id": "int", "page_item_price": "float", "page_item_clicked": "bool", "page_kind": "string"},
    paths={
        "page_kind": "page.kind",
        "page_items": "page.items",
        "page_item_id": "page.items.id",
        "page_item_product_brand": "page.items.product.brand",
        "page_item_price": "page.items.price",
        "page_item_clicked": "page.items.clicked",
    },
)


def shown_objects(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Lines of JSON with a list of objects, whose ids are unsigned."""
    items = [draw.getrandbits(64) for _ in range(40)]
    pages = [_page(draw, at, items) for at in times(draw, 200)]
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    return {**_SHOWN_OBJECTS, "keys": {"unsigned": ["page_item_id"]}, "rows": _shown(pages)}


def shown_structs(folder: Path, draw: random.Random) -> dict[str, Any]:
    """The same in Parquet, as a list of structs."""
    pages = [_page(draw, at, list(range(40))) for at in times(draw, 200)]
    pq.write_table(pa.Table.from_pylist(pages), folder / "pages.parquet")
    return {**_SHOWN_OBJECTS, "rows": _shown(pages)}


def baskets(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Orders in JSON lines, each with a list of products: all are positives."""
    lines, count = [], 0
    for at in times(draw, 200):
        bought = [{"id": f"p{draw.randrange(40)}", "quantity": draw.randrange(1, 4)} for _ in range(draw.randrange(1, 4))]
        lines.append(json.dumps({"ts": at.isoformat(), "customer": draw.randrange(60), "products": bought}))
        count += len(bought)
    (folder / "orders.jsonl").write_text("\n".join(lines) + "\n")
    paths = {"product_id": "products.id", "product_quantity": "products.quantity"}
    return iso_times("customer", "product_id", None, paths=paths, rows=count)


def hive_folders(folder: Path, draw: random.Random) -> dict[str, Any]:
    """Csv in folders of days, countries and hours, as Hive writes them, with times as `Mar 01 2025 10:00:00`."""
    for day in range(DAYS):
        for country in ("de", "New%20Zealand", "__HIVE_DEFAULT_PARTITION__"):
            for hour in range(0, 24, 8):
                at = START + timedelta(days=day, hours=hour)
                held = folder / f"day={at.date()}" / f"country={country}" / f"hour={hour}"
                held.mkdir(parents=True)
                rows = []
                for n in range(60):
                    when = f"{at + timedelta(minutes=n):%b %d %Y %H:%M:%S}"
                    rows.append(f"{when},u{draw.randrange(50)},{draw.randrange(40)},{n % 4 // 3}")
                (held / "part-0.csv").write_text("\n".join(["when,user,item,clicked", *rows]) + "\n")
    return roles(
        {"column": "when", "format": "%b %d %Y %H:%M:%S"},
        "user",
        "item",
        "clicked",
        files="day=%Y-%m-%d/country=*/hour=*/part-*.csv",
        types={"country": "string", "hour": "int"},
        keys={"path_columns": ["country", "hour"]},
        rows=1620,
    )


def exported_table(folder: Path, draw: random.Random) -> dict[str, Any]:
    """A table of a spreadsheet: every field is quoted, the names too, some have line ends, and days come first in dates."""
    with (folder / "export.csv").open("w", newline="") as file:
        out = csv.writer(file, quoting=csv.QUOTE_ALL)
        out.writerow(["Date", "Customer Id", "Product", "Comment", "Bought"])
        for n, at in enumerate(times(draw, 200)):
            comment = 'first line\nof "two"' if n % 5 == 0 else "fine"
            row = [at.strftime("%d/%m/%y %I:%M %p"), draw.randrange(60), f"p{draw.randrange(50)}", comment]
            out.writerow([*row, draw.choice(("Y", "N", "N"))])
    return roles(
        {"column": "Date", "format": "%d/%m/%y %I:%M %p"},
        "Customer Id",
        "Product",
        "Bought",
        keys={"multiline": True},
        rows=600,
    )


def numbers_as_texts(folder: Path, draw: random.Random) -> dict[str, Any]:
    """JSON lines with times in milliseconds as texts."""
    lines = []
    for at in times(draw, 200):
        row = {"sent": str(int(at.timestamp() * 1000)), "visitor": draw.randrange(60), "product": f"p{draw.randrange(40)}"}
        lines.append(json.dumps(row | {"liked": draw.choice((-1, -1, 1))}))
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    label = {"column": "liked", "is": [1], "is_not": [-1]}
    return roles({"column": "sent", "unit": "ms"}, "visitor", "product", label, types={"sent": "string"}, rows=600)


LOGS: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {
    make.__name__: make
    for make in (
        policy_log,
        sparse_years,
        daily_events,
        partitioned,
        clocks,
        labelled_lines,
        nested_objects,
        structs,
        parallel_lists,
        nested_lists,
        shown_objects,
        shown_structs,
        baskets,
        hive_folders,
        exported_table,
        numbers_as_texts,
    )
}
"""Name -> function that writes a log into an empty folder and returns what a sketch must find."""
