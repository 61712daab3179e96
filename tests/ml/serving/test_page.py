"""The page in a browser: recommendations, their reasons, and what a click stores and changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.http.server import serving
from ml.lake import Lake
from ml.parquet import write_table
from ml.schema import ARROW_TYPES
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.journal import Journal
from ml.serving.start import start
from tests.helpers.kiosk_lake import DAY, END, experiment_spec, export, kiosk_lake, raw_rows, spec_of

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LARGE = 2**60 + 1
"""Added to ids, which then have no exact number in JavaScript."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def large_rows() -> pa.Table:
    rows = raw_rows()
    for name in ("user", "item"):
        at = rows.column_names.index(name)
        rows = rows.set_column(at, name, pa.array(LARGE + 4 * rows[name].to_numpy()))
    return rows


@contextmanager
def opened(browser: Browser, tmp_path: Path, spec: DatasetSpec, rows: pa.Table) -> Iterator[tuple[Page, Engine]]:
    """The page of a service whose log has some rows."""
    lake = Lake.at(str(tmp_path / "lake"))
    with lake.write(spec.examples_log.stage, spec.name, DAY) as folder:
        write_table(rows, folder / "rows" / "part-00000.parquet")
        lake.write_manifest(folder, {"fingerprint": spec.examples_log.fingerprint})
    for model in spec.models:
        export(lake, spec, model)
    engine = start(spec, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, "secret")) as url:
        page = browser.new_page()
        page.goto(f"{url}/#secret")
        expect(page.locator("#items tr")).not_to_have_count(0)
        yield page, engine
        page.close()


def stored(engine: Engine, log: str) -> list[dict[str, Any]]:
    """The rows of a log that the service has stored."""
    assert isinstance(engine.journal, Journal)
    engine.journal.rotate(at_once=True)
    paths = sorted((engine.journal.root / log).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_click_stores_the_shown_item_with_its_session_and_context(browser: Browser, tmp_path: Path) -> None:
    spec = spec_of(item_columns=["place"])
    rows = large_rows()
    known = {int(value) for value in rows["item"].to_numpy()}
    with opened(browser, tmp_path, spec, rows) as (page, engine):
        user = int(page.input_value("#user"))
        assert user in rows["user"].to_pylist() and user % 4 == 1
        for number in range(2):
            item = page.evaluate("String(before[1])")
            page.locator("#items button").nth(1).click()
            expect(page.locator("#context .id").first).to_have_text(item)
            row = stored(engine, "examples")[number]
            assert (row["user"], row["item"]) == (user, int(item)) and int(item) in known
            assert row["place"] in ("here", "there")
        first, second = stored(engine, "examples")
        assert first["visit"] == second["visit"] and first["visit"] is not None
        assert page.locator("#error").text_content() == ""


def test_nearest_past_clicks_are_items_of_the_user(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, spec_of(), large_rows()) as (page, _):
        context = page.locator("#context .id").all_text_contents()
        nearest = page.locator("#items tr td:nth-child(6) .tag").all_text_contents()
        assert nearest and set(nearest) <= set(context)


def test_a_user_that_is_typed_in_and_a_filter_are_sent_exactly(browser: Browser, tmp_path: Path) -> None:
    rows = large_rows()
    item, user = rows["item"][-1].as_py(), rows["user"][5].as_py()
    with opened(browser, tmp_path, spec_of(), rows) as (page, _):
        page.fill("#user", str(user))
        page.select_option("#filter", "item")
        page.fill("#value", str(item))
        page.uncheck("#seen")
        page.get_by_role("button", name="Recommend").click()
        expect(page.locator("#items tr")).to_have_count(1)
        assert page.evaluate("String(before[0])") == str(item)
        page.fill("#user", "nobody")
        page.get_by_role("button", name="Recommend").click()
        expect(page.locator("#error")).to_contain_text("user: expected int64")


def test_a_click_belongs_to_the_user_of_the_answer(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, spec_of(), large_rows()) as (page, engine):
        users = page.locator("#users option").evaluate_all("all => all.map(one => one.value)")
        user = page.input_value("#user")
        other = next(name for name in users if name != user)
        item = page.evaluate("String(before[1])")
        page.fill("#user", other)  # without a press of Recommend
        with page.expect_response("**/events"):
            page.locator("#items button").nth(1).click()
        page.evaluate("ask()")
        with page.expect_response("**/events"):
            page.locator("#items button").nth(1).click()
        first, second = stored(engine, "examples")
        assert (first["user"], first["item"]) == (int(user), int(item)) and second["user"] == int(other)
        assert first["visit"] != second["visit"]
        assert page.locator("#error").text_content() == ""


def test_a_click_moves_the_list_and_says_what_changed(browser: Browser, tmp_path: Path) -> None:
    spec = experiment_spec(label={"column": "clicked", "at_least": 0.5}, experiment=None)  # a like, in a column of ints
    rows = raw_rows()
    rows = rows.append_column("clicked", pa.array(np.arange(len(rows)) % 3 == 0).cast(pa.int64()))
    with opened(browser, tmp_path, spec, rows) as (page, engine):
        assert page.locator("#changes").is_hidden() and page.locator(".move").count() == 0
        page.fill("#k", "4")
        page.get_by_role("button", name="Recommend").click()
        expect(page.locator("#items tr")).to_have_count(4)
        old = page.evaluate("before")
        page.locator("#items button").nth(1).click()
        expect(page.locator("#changes")).to_contain_text(
            f"The click on {old[1]} is stored. In the list since then: 1 left, 1 new"
        )
        new = page.evaluate("before")
        assert [row["clicked"] for row in stored(engine, "examples")] == [1]
        assert old[1] not in new and page.locator("#context .id").first.text_content() == str(old[1])
        marked = [
            item for item, row in zip(new, page.locator("#items tr").all(), strict=True) if "new" in row.inner_text().split()
        ]
        assert marked == [item for item in new if item not in old]
        page.get_by_role("button", name="Next user").click()
        expect(page.locator("#whose")).not_to_have_text(f"User {stored(engine, 'examples')[0]['user']}")
        assert page.locator("#changes").is_hidden() and page.locator(".move").count() == 0


def test_a_dataset_without_items_and_a_wrong_token_are_explained(browser: Browser, tmp_path: Path) -> None:
    lake = kiosk_lake(tmp_path / "lake")
    engine = start(spec_of(), lake, UPath(tmp_path / "stream"))
    engine.recommender = None
    with serving(create_serving_app(engine, "secret")) as url:
        for token, said in (("secret", "nothing to recommend"), ("guess", "open the address that `make serve` has printed")):
            page = browser.new_page()
            page.goto(f"{url}/#{token}")
            expect(page.get_by_role("alert")).to_contain_text(said)
            assert page.locator("#page").is_hidden()
            page.close()


def test_past_items_are_described(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, tmp_path, spec_of(item_columns=["place"]), raw_rows()) as (page, _):
        expect(page.locator("#context li").first).to_contain_text("place")


@pytest.mark.parametrize(("kind", "made"), [("float", float), ("bool", bool), ("string", str)])
def test_sessions_that_are_made_up_have_the_type_of_their_column(
    browser: Browser, tmp_path: Path, kind: str, made: type
) -> None:
    columns = {"time": "int", "user": "int", "item": "int", "visit": kind, "place": "string", "clicked": "int"}
    spec = experiment_spec(
        source={"files": "*.csv", "format": "csv", "columns": columns}, session={"column": "visit"}, experiment=None
    )
    rows = raw_rows()
    rows = rows.set_column(rows.column_names.index("visit"), "visit", rows["visit"].cast(ARROW_TYPES[kind]))
    rows = rows.append_column("clicked", pa.array(np.arange(len(rows)) % 3 == 0).cast(pa.int64()))
    with opened(browser, tmp_path, spec, rows) as (page, engine):
        with page.expect_response("**/events") as response:
            page.locator("#items button").nth(1).click()
        assert response.value.status == 202
        assert {type(row["visit"]) for row in stored(engine, "examples")} == {made}


@pytest.mark.parametrize(
    ("key", "shared"),
    [
        (["request", "item"], {"request", "visit"}),
        (["request"], {"visit"}),
        (["number", "position"], {"visit"}),
        (["visit", "position"], {"visit"}),
        (["visit"], set()),
    ],
)
def test_a_click_of_a_dataset_with_actions_stores_what_was_shown_and_the_action(
    browser: Browser, tmp_path: Path, key: list[str], shared: set[str]
) -> None:
    keys = {"request": "string", "number": "int", "position": "int", "visit": "int", "item": "int"}
    spec = experiment_spec(
        source={"files": "*.csv", "format": "csv", "columns": {"time": "int", "user": "int", "place": "string", **keys}},
        session={"column": "visit"},
        actions={
            "source": {"files": "actions/*.csv", "format": "csv", "columns": {"at": "int", "kind": "string", **keys}},
            "time": {"column": "at"},
            "key": key,
            "type": "kind",
            "labels": {"clicked": {"types": ["click"], "within_minutes": 10}},
        },
        experiment=None,
    )
    rows = raw_rows()
    count = len(rows)
    rows = rows.append_column("request", pa.array([f"r{n}" for n in range(count)]))
    rows = rows.append_column("number", pa.array(np.arange(count)))
    rows = rows.append_column("position", pa.array(np.zeros(count, np.int64)))
    rows = rows.append_column("clicked", pa.array(np.arange(count) % 3 == 0).cast(pa.int64()))
    rows = rows.append_column("clicked_delay", pa.nulls(count, pa.float64()))
    with opened(browser, tmp_path, spec, rows) as (page, engine):
        items, user = page.evaluate("before"), int(page.input_value("#user"))
        with page.expect_response("**/events") as response:
            page.locator("#items button").nth(2).click()
        assert response.value.status == 202
        shown, [action] = stored(engine, "impressions"), stored(engine, "actions")
        assert [row["item"] for row in shown] == items and {row["user"] for row in shown} == {user}
        assert all(row[name] is not None for row in shown for name in [*key, "visit"])
        assert len({tuple(row[name] for name in key) for row in shown}) == len(items)
        assert [row["item"] for row in shown if all(row[name] == action[name] for name in key)] == [items[2]]
        assert {name for name in {*key, "visit"} if len({row[name] for row in shown}) == 1} == shared
        assert action["kind"] == "click" and END <= shown[0]["event_time"] <= action["event_time"]
