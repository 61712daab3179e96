"""Writing a day of the built-in log, compared with a Python loop that draws, scores and writes one impression at a time."""

from __future__ import annotations

import csv
import math
import random
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from benchmarks.result import Result
from ml.catalog.load import load_catalog
from ml.logs.synthetic.population import CATEGORIES, COUNTRIES, DEVICES, FACTORS
from ml.logs.synthetic.simulate import COLUMNS, write_day

ROWS, LOOP_ROWS = 1_000_000, 20_000
USERS, ITEMS = 50_000, 5_000


def run() -> list[Result]:
    spec = load_catalog()["synthetic"]
    assert spec.simulation is not None
    simulation = spec.simulation.model_copy(update={"impressions_per_day": ROWS, "users": USERS, "items": ITEMS})
    spec = spec.model_copy(update={"simulation": simulation})
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        write_day(spec.log, spec.days()[0], Path(folder))
        ours = ROWS / (time.perf_counter() - begin)
        baseline = LOOP_ROWS / _loop(Path(folder) / "loop.csv")
    note = f"{ours * 60 / 1e6:.0f} million rows per minute in one process; the loop's set-up of users and items is not measured"
    return [Result("synthetic log: a day written", "rows/s", ours, baseline, "Python loop with csv.writer", note=note)]


def _loop(path: Path) -> float:
    """Return the seconds to write LOOP_ROWS rows of the same columns, of Zipf users and items with latent factors."""
    rng = random.Random(7)
    tastes = [[rng.gauss(0, 1) for _ in range(FACTORS)] for _ in range(USERS)]
    factors = [[rng.gauss(0, 1) for _ in range(FACTORS)] for _ in range(ITEMS)]
    user_weights = list(accumulate((rank + 30) ** -0.9 for rank in range(USERS)))
    item_weights = list(accumulate((rank + 1) ** -0.9 for rank in range(ITEMS)))
    begin = time.perf_counter()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in range(LOOP_ROWS):
            user = rng.choices(range(USERS), cum_weights=user_weights)[0]
            item = rng.choices(range(ITEMS), cum_weights=item_weights)[0]
            affinity = sum(a * b for a, b in zip(tastes[user], factors[item], strict=True)) / math.sqrt(FACTORS)
            probability = round(1 / (1 + math.exp(2.8 - affinity)), 6)
            category, country, device = rng.choice(CATEGORIES), rng.choice(COUNTRIES), rng.choice(DEVICES)
            tags = "|".join(f"{category}-{tag}" for tag in range(rng.randrange(5)))
            age, hours, price = rng.randrange(13, 95), round(rng.random() * 100, 2), round(rng.expovariate(0.1), 2)
            clicked = int(rng.random() < probability)
            shown = (row, user, item, category, country, device, age, hours, price, tags, clicked, probability)
            writer.writerow(shown)
    return time.perf_counter() - begin
