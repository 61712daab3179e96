from __future__ import annotations

from rich.console import Console

from ml.advisor.advise import advise
from ml.advisor.explain import compact, to_markdown, to_terminal
from ml.advisor.wishes import Wishes
from ml.catalog.load import load_catalog
from tests.helpers.entries import untuned_criteo
from tests.helpers.feature_profiles import profile_of
from tests.ml.advisor.test_advise import CALIBRATION, MACHINE

SPEC = untuned_criteo()


def lines(dataset: str = "criteo", **wishes: float) -> list[str]:
    spec = SPEC if dataset == SPEC.name else load_catalog()[dataset]
    advice = advise(spec, spec.primary, profile_of(spec, 300_000), MACHINE, Wishes(**wishes), calibration=CALIBRATION)
    console = Console(width=80, record=True, force_terminal=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(to_terminal(advice))
    return console.export_text().splitlines()


def test_the_terminal_shows_each_changed_value_with_reason_and_source_in_80_columns() -> None:
    found = lines()
    assert max(map(len, found)) <= 80
    text = "\n".join(found)
    assert any(line.split()[:4] == ["*", "batch_size", "512", "256"] for line in found)
    assert "at least 500 steps" in text and "Malladi et al., 2022" in text
    assert "seconds of one core" in text


def test_keys_of_the_catalog_entry_are_listed_as_not_applied() -> None:
    text = " ".join(" ".join(lines("globo")).split())
    assert "Not applied" in text and "batch_size stays 1024, because the catalog entry" in text


def test_a_wish_that_cannot_be_fulfilled_is_shown() -> None:
    assert "no rule reduces it further" in " ".join(" ".join(lines(seconds=1e-9)).split())


def test_markdown_has_a_row_for_each_value_and_groups_features() -> None:
    advice = advise(SPEC, "dlrm", profile_of(SPEC, 300_000), MACHINE, calibration=CALIBRATION)
    text = to_markdown(advice)
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(line.count(" | ") == 5 for line in rows)
    for value in advice.values:
        assert value.reason in text and value.source in text
    assert any(line.startswith("| `tables.features.{C1..C26, I1_bucket..I13_bucket}.kind` | `collisionless`") for line in rows)


def test_compact_ranges() -> None:
    assert compact(["a1", "a2", "a4", "b"]) == "{a1..a2, a4, b}"
    assert compact(["I1_b", "I2_b"]) == "{I1_b..I2_b}"
