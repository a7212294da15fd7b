"""What early stopping should go by where the rows to predict are later ones.

    python benchmarks/bench_later_rows.py
    python benchmarks/bench_later_rows.py --worlds "cut" "cut, weather" --seeds 2 --rows 20000

Made-up hours of ten places: a label that follows the hour, the season, what was measured of the weather, and what was
not, which is alike within a day. The last year is the test. "cut" worlds train until early in that year, so that it is
seen in winter only. R-MTGB with default options, and with others; loss over that of the defaults, geometric mean over
the tables.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import root_mean_squared_error
from sklearn.model_selection import TimeSeriesSplit

import mttab
from bench_accuracy import describe_machine, positive, show_ratios

DAYS_OF_YEAR, N_YEARS = 365, 4


class World(NamedTuple):
    """Weight of the weather that nobody measured, days of the last year to train on, and places.

    has_day_number : the date is the day's number instead of year, month and day
    """

    hidden: float = 0.4
    n_cut: int = 0
    n_places: int = 10
    has_day_number: bool = False


WORLDS = {
    "whole years": World(),
    "whole years, day's number": World(has_day_number=True),
    "whole years, weather": World(hidden=0.8),
    "cut": World(n_cut=60),
    "cut, weather": World(hidden=0.8, n_cut=60),
    "cut, weather, 30 places": World(hidden=0.8, n_cut=30, n_places=30),
}
LEAFWISE = {"grow_policy": "leafwise", "max_leaf_nodes": 31}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "validation by time": {"validation": TimeSeriesSplit(5)},
    "leafwise": LEAFWISE,
    "both": LEAFWISE | {"validation": TimeSeriesSplit(5)},
}


def slow(rng: np.random.Generator, rho: float, n: int) -> np.ndarray:
    """Numbers of variance 1, each drawn to the one before."""
    steps = rng.normal(size=n)
    for i in range(1, n):
        steps[i] = rho * steps[i - 1] + np.sqrt(1.0 - rho**2) * steps[i]
    return steps


def draw(world: World, n_train: int, seed: int) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Features and place of the rows, sorted by day, their labels, and which are training rows."""
    rng, n_days = np.random.default_rng(seed), DAYS_OF_YEAR * N_YEARS
    n_per_day = n_train // (n_days - DAYS_OF_YEAR)
    hidden, warm, pressure = slow(rng, 0.8, n_days), slow(rng, 0.85, n_days), slow(rng, 0.9, n_days)
    day = np.repeat(np.arange(n_days), n_per_day)
    n = len(day)
    hour, place = rng.integers(0, 24, n), rng.integers(0, world.n_places, n)
    of_year = day % DAYS_OF_YEAR
    season, turn = np.cos(2 * np.pi * of_year / DAYS_OF_YEAR), 2 * np.pi * hour / 24
    temperature = -12 * season + 5 * warm[day] + 4 * np.sin(turn - 2.4) + rng.normal(size=n)
    wind = np.abs(rng.normal(size=n) + 0.5 * hidden[day])
    humidity = 60 + 10 * pressure[day] - temperature + 5 * rng.normal(size=n)
    level, effect = rng.normal(size=world.n_places), 1 + 0.2 * rng.normal(size=world.n_places)
    log_y = 0.3 * season + 0.2 * np.sin(turn + level[place]) - 0.3 * wind * effect[place] + humidity / 150
    log_y += world.hidden * hidden[day] + 0.1 * (day > (N_YEARS - 1.2) * DAYS_OF_YEAR) + 0.2 * level[place]
    month = of_year // 31
    date = {"year": day // DAYS_OF_YEAR, "month": month, "day": of_year - 31 * month}
    if world.has_day_number:
        date = {"day": day}
    columns = date | {"hour": hour, "temperature": temperature, "wind": wind, "humidity": humidity, "place": place}
    is_past = day < (N_YEARS - 1) * DAYS_OF_YEAR + world.n_cut
    return pd.DataFrame(columns), np.exp(log_y + 0.3 * rng.normal(size=n)), is_past


def losses(world: World, n_train: int, seed: int, n_jobs: int) -> Iterator[float]:
    """Error of every variant on one table."""
    X, y, is_past = draw(world, n_train, seed)
    for options in VARIANTS.values():
        model = mttab.RMTGBRegressor(task_column="place", random_state=seed, n_jobs=n_jobs, **options)
        model.fit(X[is_past], y[is_past])
        yield root_mean_squared_error(y[~is_past], model.predict(X[~is_past]))


def show(name: str, ratios: np.ndarray) -> None:
    """A line for ratios (n_tables, n_variants) to the first variant."""
    show_ratios(f"{name} ({len(ratios)} tables)", np.log(ratios[:, 1:]), list(VARIANTS)[1:], digits=3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--worlds", nargs="+", choices=WORLDS, default=list(WORLDS), metavar="WORLD", help=str([*WORLDS])
    )
    parser.add_argument("--seeds", type=positive, default=4, help="tables of each world (default: %(default)s)")
    parser.add_argument("--rows", type=positive, default=60_000, help="training rows, about (default: %(default)s)")
    parser.add_argument("--n-jobs", type=positive, default=1, help="threads (default: %(default)s)")
    arguments = parser.parse_args()
    print(describe_machine(peers=()))
    found: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for name in arguments.worlds:
        world = WORLDS[name]
        tables = (list(losses(world, arguments.rows, seed, arguments.n_jobs)) for seed in range(arguments.seeds))
        ratios = np.array([np.array(table) / table[0] for table in tables])
        show(name, ratios)
        found[world.n_cut > 0].append(ratios)
    for is_cut, parts in found.items():
        if parts:
            show(
                "all that train until early in the last year" if is_cut else "all of whole years", np.concatenate(parts)
            )


if __name__ == "__main__":
    main()
