"""The page in a browser: recommendations, and what a click stores and changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from upath import UPath

from ml.catalog.spec import DatasetSpec
from ml.http.server import serving
from ml.lake import Lake
from ml.serving.app import create_serving_app
from ml.serving.engine import Engine
from ml.serving.journal import Journal
from ml.serving.start import start
from tests.helpers.kiosk_lake import export, put_raw, raw_rows, spec_of

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
    put_raw(lake, spec, rows)
    for model in spec.models:
        export(lake, spec, model)
    engine = start(spec, lake, UPath(tmp_path / "stream"))
    with serving(create_serving_app(engine, "secret")) as url:
        page = browser.new_page()
        page.goto(f"{url}/#secret")
        expect(page.locator("#items tr")).to_have_count(10)
        yield page, engine
        page.close()


def stored(engine: Engine, log: str) -> list[dict[str, Any]]:
    """The rows of a log that the service has stored."""
    assert isinstance(engine.journal, Journal)
    engine.journal.rotate(at_once=True)
    paths = sorted((engine.journal.root / log).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_click_stores_the_shown_item(browser: Browser, tmp_path: Path) -> None:
    rows = large_rows()
    known = {int(value) for value in rows["item"].to_numpy()}
    with opened(browser, tmp_path, spec_of(), rows) as (page, engine):
        user = int(page.input_value("#user"))
        assert user in rows["user"].to_pylist() and user % 4 == 1
        for number in range(2):
            item = page.evaluate("String(before[1])")
            page.locator("#items button").nth(1).click()
            expect(page.locator("#context li").first).to_have_text(item)
            row = stored(engine, "examples")[number]
            assert (row["user"], row["item"]) == (user, int(item)) and int(item) in known
        assert page.locator("#error").text_content() == ""


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
