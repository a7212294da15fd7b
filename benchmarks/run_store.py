"""Single runs and a file that remembers them, one JSON line each: what is there is not fitted again.

A run is known by its key: experiment, data, draw or seed, approach and the approach's settings. Other settings are
another key, so results of different settings never mix in one file.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from joblib import Parallel, delayed

from bench_accuracy import ROOT, describe_machine, positive, progress


class Job(NamedTuple):
    """One run: what it is, how the progress bar calls it, and what does it."""

    key: dict[str, Any]
    title: str
    run: Callable[..., dict[str, Any]]


class RunStore:
    """Results by key. With `resume=False` earlier lines are not read; new ones are appended and win from then on."""

    def __init__(self, path: Path, *, resume: bool = True, machine: Mapping[str, Any] | None = None):
        self.path, self.machine = path, dict(machine or {})
        self.results: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume and path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the last line of a run that was killed while it wrote
                self.results[identity(record["key"])] = record["result"]

    def get(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The result of a finished run; None for one that is absent or failed, which is tried again."""
        result = self.results.get(identity(key))
        return None if result is None or result["error"] else result

    def add(self, key: Mapping[str, Any], result: dict[str, Any]) -> None:
        now = datetime.now().isoformat(timespec="seconds")
        line = json.dumps({"key": key, **self.machine, "date": now, "result": result})
        is_cut_off = self.path.exists() and not self.path.read_bytes().endswith(b"\n")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n" if is_cut_off else f"{line}\n")
        self.results[identity(key)] = json.loads(line)["result"]


def add_arguments(parser: argparse.ArgumentParser, file_name: str, *, n_jobs_are: str) -> None:
    """Give `parser` the options of every script that resumes."""
    n_cores = os.cpu_count()
    parser.add_argument("--n-jobs", type=positive, default=n_cores, help=f"{n_jobs_are} (default: %(default)s)")
    parser.add_argument(
        "--output", type=_jsonl, default=ROOT / "benchmarks" / "results" / file_name,
        help="a line per run; the tables go to the same name with .json (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--resume", action=argparse.BooleanOptionalAction, default=True, help="take runs that --output has from there"
    )


def _jsonl(path: str) -> Path:
    if Path(path).suffix == ".json":
        raise argparse.ArgumentTypeError(f"{path} is where the tables would go; end it with .jsonl")
    return Path(path)


def open_store(options: argparse.Namespace, peers: tuple[str, ...]) -> tuple[RunStore, dict[str, Any]]:
    """The store of these options, and the machine, which is printed; `peers` are packages whose version counts."""
    machine = describe_machine(peers)
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    print(f"{machine['date']}, {machine['cpu']}, {options.n_jobs} threads\n{versions}")
    return RunStore(options.output, resume=options.resume, machine=machine), machine


def write_tables(tables: Mapping[str, pd.DataFrame], options: argparse.Namespace, machine: dict[str, Any]) -> None:
    """What the screen showed, as JSON beside the single runs."""
    said = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    content = {title: json.loads(table.to_json(orient="split")) for title, table in tables.items()}
    path = options.output.with_suffix(".json")
    path.write_text(json.dumps({**machine, "options": said, "tables": content}, indent=1) + "\n", encoding="utf-8")
    print(f"\nall runs: {options.output}\ntables: {path}")


def identity(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def run_jobs(jobs: Sequence[Job], store: RunStore, *, n_processes: int = 1) -> list[dict[str, Any]]:
    """The results of all jobs, keys included, in their order; those that the store lacks are run first."""
    todo = [job for job in jobs if store.get(job.key) is None]
    print(f"{len(jobs) - len(todo)} of {len(jobs)} runs taken from {store.path}", flush=True)
    pool = Parallel(n_processes, return_as="generator_unordered", pre_dispatch="2*n_jobs")
    with progress(len(todo)) as advance:
        for title, key, result in pool(delayed(finish)(job) for job in todo):
            store.add(key, result)
            advance(title, 1)
    return [job.key | store.results[identity(job.key)] for job in jobs]


def finish(job: Job) -> tuple[str, dict[str, Any], dict[str, Any]]:
    return job.title, job.key, attempt(job.run)


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` returns with the seconds it took; a failure is a result too."""
    start = time.perf_counter()
    try:
        result: dict[str, Any] = {"error": None, **run()}
    except Exception as error:
        return {"error": describe(error), "seconds": None}
    return {"seconds": time.perf_counter() - start, **result}


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().split("\n")[0]
