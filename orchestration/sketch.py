"""Looks at a folder of logs and writes a first catalog entry, with comments.

    python -m orchestration.sketch /data/shop

writes `catalog/shop.yaml`, and never overwrites a file.
"""

import re
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from rich.console import Console

from ml.catalog.load import CatalogError, load_dataset
from ml.preflight.check import preflight
from ml.sketch.entry import entry_text, sketch
from orchestration.deployments import catalog_folder


def name_of(folder: Path) -> str:
    """Return a name of a dataset made from that of a folder.

    >>> name_of(Path("/data/Shop logs 2026"))
    'shop_logs_2026'
    """
    name = re.sub(r"[^a-z0-9]+", "_", folder.name.lower()).strip("_")
    return name if name[:1].isalpha() else f"logs_{name}".rstrip("_")


@click.command(help="Look at the files in FOLDER and write a first catalog entry for them.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the dataset; by default derived from the name of the folder.")
@click.option("--timezone", default="UTC", show_default=True, help="Time zone of the days.")
@click.option("--print", "only_print", is_flag=True, help="Print the entry instead of writing it.")
def main(folder: Path, name: str | None, timezone: str, only_print: bool) -> None:
    """Write the entry, or print it."""
    folder = folder.expanduser().resolve()
    name = name or name_of(folder)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise click.BadParameter(f"{name!r}: expected lower-case letters, digits and underscores", param_hint="--name")
    try:
        ZoneInfo(timezone)
    except (KeyError, ValueError, OSError) as error:
        raise click.BadParameter(f"{timezone!r} is not an IANA time zone", param_hint="--timezone") from error
    path = catalog_folder() / f"{name}.yaml"
    if path.exists() and not only_print:
        raise click.ClickException(f"{path} exists and is not overwritten; move it away, or pass another name with --name")
    console = Console(markup=False)  # findings hold values of the log
    try:
        with console.status("Reading the files"):
            found = sketch(folder, name, timezone)
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    text = entry_text(found, folder, timezone)
    if only_print:
        click.echo(text, nl=False)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("x") as file:
        file.write(text)
    console.print(f"Wrote {path}", soft_wrap=True, highlight=False)
    if found.others:
        console.print("Other files in the folder, which may be tables to `join`:", highlight=False)
        for other in found.others[:10]:
            console.print(f"  {other.members or other.pattern} ({other.count:,} files, {other.size:,} bytes)", highlight=False)
    _check(path, folder, console)
    console.print(f"Read the comments in it, then: make demo DATASET={name} LOGS={folder}", soft_wrap=True, highlight=False)


def _check(path: Path, folder: Path, console: Console) -> None:
    """Say what the entry still lacks, as the preflight of a run does."""
    try:
        findings = preflight(load_dataset(path), folder)
    except CatalogError as error:
        console.print(f"To be completed: {error}", soft_wrap=True, highlight=False)
        return
    for finding in findings:
        console.print(str(finding), soft_wrap=True, highlight=False)


if __name__ == "__main__":
    main()
