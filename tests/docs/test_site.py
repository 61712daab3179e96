"""The site builds in strict mode, like with `make docs`, and loads nothing from other hosts."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.markdown import pages
from tests.helpers.paths import ROOT

# Resources that a browser loads automatically, unlike links that a reader follows.
LOADS = re.compile(
    r"""<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc=["']?(?:https?:)?//"""
    r"""|<link\b(?=[^>]*rel=["']?(?:stylesheet|icon|preload|preconnect|prefetch|modulepreload))[^>]*href=["']?(?:https?:)?//"""
    r"""|@import\s+["'](?:https?:)?//|url\(["']?(?:https?:)?//"""
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_every_page_is_built_and_loads_nothing_from_elsewhere(site: Path) -> None:
    built = {file.relative_to(site).with_suffix(".md").as_posix() for file in site.rglob("*.html")}
    written = {page.relative_to(ROOT / "docs").as_posix() for page in pages() if (ROOT / "docs") in page.parents}
    assert written <= built
    assert not [file.name for file in [*site.rglob("*.html"), *site.rglob("*.css")] if LOADS.search(file.read_text())]


def test_the_pattern_finds_what_is_loaded() -> None:
    assert LOADS.search('<script src="https://unpkg.com/x.js">') and LOADS.search('<link rel="stylesheet" href="//fonts.x/y">')
    assert LOADS.search("url(https://fonts.x/y.woff)") and LOADS.search("<img alt='' src=http://x/y.png>")
    assert not LOADS.search('<a href="https://dagster.io">') and not LOADS.search('<script src="assets/x.js">')


@pytest.mark.slow
def test_search_works_without_a_server(site: Path) -> None:
    """The index is a script, and pages that are opened from disk load the search worker from the site."""
    assert (site / "search" / "search_index.js").read_text().startswith("var __index")
    assert "javascripts/iframe-worker.js" in (site / "index.html").read_text()
    assert (site / "javascripts" / "iframe-worker.js").exists()


@pytest.mark.slow
def test_examples_of_docstrings_are_shown_as_code(site: Path) -> None:
    """Text that begins with `>>>` outside an `Example:` section would be a quotation."""
    assert not [page.name for page in (site / "api").glob("*.html") if "<blockquote" in page.read_text()]


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_pages_outside_the_site_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        linked = ROOT / path
        assert linked.exists(), target
        headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w-]+", "-", heading.lower()).strip("-") for heading in headings], target
