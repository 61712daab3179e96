"""Folders that tests refer to."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The repository."""
