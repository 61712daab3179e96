"""Output in the documentation equals what the code writes: messages, listings of folders, keys of manifests."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

from ml import stages
from ml.catalog.load import load_catalog
from ml.lake import Lake
from ml.sync.folder import SyncFolder
from ml.sync.receiver import Receiver
from tests.helpers.markdown import Block, blocks_of, pages
from tests.helpers.paths import ROOT
from tests.helpers.sync_runs import Run
from tests.helpers.workplace import DAYS, Workplace

BLOCKS = [block for page in pages() for block in blocks_of(page)]
TROUBLESHOOTING = "docs/troubleshooting.md"
MESSAGES = [block for block in BLOCKS if block.language == "output" and block.page == TROUBLESHOOTING]
LISTINGS = [block for block in BLOCKS if block.language == "text"]
# Missing in the lake of these tests: no day is in training, no study or batch was run, all logs have dates, no feature has a
# vocabulary, and no dataset has feature tables, a log of actions or a two-tower model.
ABSENT = {
    *("feature_tables", "raw_actions", "joined_examples", "vectors.safetensors", "ranker.txt"),
    *("checkpoints", "online_checkpoints", "online_packages", "online_updates"),
    *("studies", "log_index", "vocabulary", "tuning_results", "batch_recommendations"),
}

SYNC_FOLDER = "<folder>/"  # head of the listing of a sync folder, which is not in the lake


@cache
def texts() -> list[str]:
    """Every string in the code, with \\0 in place of computed parts."""
    found = [(ROOT / "scripts" / "need.sh").read_text()]
    for layer in ("ml", "assets", "orchestration"):
        for file in (ROOT / layer).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return found


@pytest.mark.parametrize("block", MESSAGES, ids=str)
def test_messages_are_those_of_the_code(block: Block) -> None:
    """Every part of a message outside `<...>`, which depends on the run, is in some string of the code."""
    parts = [part.strip(" ():;,.?'") for part in re.split(r"<[^<>]*>", block.text.replace("\n", " "))]
    parts = [part for part in parts if len(part) > 3]
    assert sum(map(len, parts)) >= 6, block.text
    missing = [part for part in parts if not any(part in text for text in texts())]
    assert not missing


def test_other_output_is_that_of_the_code() -> None:
    others: dict[str, str] = defaultdict(str)
    for block in BLOCKS:
        if block.language == "output" and block.page != TROUBLESHOOTING:
            others[block.page] += block.text  # tests/orchestration/test_sketch.py compares the entry of the tutorial
    assert set(others) == {"docs/tutorial.md", "docs/bring-your-own-logs.md"}
    from orchestration.report_tables import metrics_table

    table = metrics_table(load_catalog()["synthetic"], {})
    shown = re.sub(r"\s+", " ", others["docs/tutorial.md"])
    assert str(table.title) in shown
    assert " ".join(str(column.header) for column in table.columns) in shown
    # tests/orchestration/test_own_logs.py provokes this message and compares all of it.
    assert "did you mean 'min_count'?" in others["docs/bring-your-own-logs.md"]


@pytest.mark.slow
@pytest.mark.parametrize("block", LISTINGS, ids=str)
def test_listings_show_what_is_in_the_lake(block: Block, at_work: Workplace, tmp_path: Path) -> None:
    """The first line is a folder, the other lines are its contents, each with files or an explanation in a second column."""
    head, *lines = block.text.splitlines()
    root = Path(".evergreen")
    if head == SYNC_FOLDER:
        head, root = "", tmp_path
        Run(tmp_path).advance()
        Receiver(SyncFolder.at(tmp_path), "server").load()
    if head.split("/")[0] in ABSENT:
        assert stages.checkpoints("<model>") == head.removesuffix("/<dataset>/<day>.<n>/")
        return
    top = head.removeprefix(".evergreen/").removeprefix("<root>/")
    assert found(top, root)
    for line in lines:
        names, _, beside = line.strip().partition("  ")
        for name in (name for name in names.split(", ") if name.split("/")[0] not in ABSENT):
            assert found(top + name, root), line
            files = [part for part in beside.strip().split(", ") if re.fullmatch(r"[\w<>*./-]*[./][\w<>*./-]*", part)]
            for file in (file for file in files if name.endswith("/") and file.split("/")[0] not in ABSENT):
                assert found(top + name + file, root), (line, file)


def found(path: str, root: Path = Path(".evergreen")) -> list[Path]:
    """The paths below a folder, by default the lake, that match a path of a listing."""
    pattern = re.sub(r"<[^<>]*>", "*", path)
    return list(root.glob(pattern)) if pattern else [root]


def keys_of_section(title: str) -> set[str]:
    """The keys in the table below a heading of docs/lake.md, without those of some datasets only."""
    text = (ROOT / "docs" / "lake.md").read_text().partition(f"# {title}\n")[2]
    section = re.split(r"^##", text, maxsplit=1, flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (`.*?) \| (?!only with)", section, re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


@pytest.mark.slow
@pytest.mark.parametrize("stage", stages.stages_of(load_catalog()["synthetic"]))
def test_manifests_have_the_keys_of_the_page(stage: str, at_work: Workplace) -> None:
    assert keys_of_section(stage.split("/")[0]) == set(Lake.at(".evergreen").manifest(stage, "synthetic", DAYS[-1]))


@pytest.mark.slow
def test_metrics_have_the_keys_of_the_page(at_work: Workplace) -> None:
    folder = Lake.at(".evergreen").require(stages.EVALUATION_REPORTS, "synthetic", DAYS[-1])
    assert keys_of_section("metrics.json") == set(json.loads((folder / "metrics.json").read_text()))
