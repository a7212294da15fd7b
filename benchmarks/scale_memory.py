"""Peak memory of a fit on a Parquet file, measured in a process of its own: ``scale_memory.py KIND PATH``."""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mttab import RMTGBRegressor
from scale_rows import SHARED_ONLY, make_rows

PART_ROWS = 1_048_576  # of a file, made at a time
KINDS = ("trees", "blocks", "defaults", "network")


class PeakMemory:
    """Largest memory of this process inside the block, in MB, that the system could not take back.

    Pages of mapped files do not count: they are dropped where memory is short, and read again.
    """

    def __enter__(self) -> "PeakMemory":
        self.mb, self._is_over = 0.0, threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def _watch(self) -> None:
        while not self._is_over.wait(0.005):
            status = Path("/proc/self/status").read_text()
            self.mb = max(self.mb, int(status.split("RssAnon:")[1].split()[0]) / 1024)

    def __exit__(self, *_: Any) -> None:
        self._is_over.set()
        self._watcher.join()


def make_model(kind: str) -> Any:
    """A model of few steps: how much memory it takes does not depend on their number."""
    few: dict[str, Any] = {"max_iter_shared": 2, "max_iter_partition": 2, "max_iter_task": 2, "random_state": 0}
    if kind == "trees":
        return RMTGBRegressor(**SHARED_ONLY, max_iter_shared=2)
    if kind == "blocks":
        return RMTGBRegressor(task_column="task", sharing="blocks", early_stopping=False, **few)
    if kind == "defaults":
        return RMTGBRegressor(task_column="task", **few)
    from mttab import MultiTabNetRegressor

    small = {"embedding_dim": 4, "n_blocks": 1, "mlp_dim": 8, "head_dim": 8, "n_members": 1, "max_epochs": 1}
    return MultiTabNetRegressor(task_column="task", batch_size=4096, **small)


def peak_of_fit(kind: str, path: str) -> tuple[float, float]:
    """Peak memory in MB that a fit on a file adds to what a fit on 1000 rows needs, and seconds of the fit."""
    X, y = make_rows(1000, 20)
    with PeakMemory() as small:
        make_model(kind).fit(X, y)
        time.sleep(0.02)
    start = time.perf_counter()
    with PeakMemory() as large:
        make_model(kind).fit(path, y="y")
    return large.mb - small.mb, time.perf_counter() - start


def write_table(path: Path, n_rows: int) -> None:
    """A Parquet file of 20 features, made a part at a time; every part has rows of every task."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    for part, start in enumerate(range(0, n_rows, PART_ROWS)):
        X, y = make_rows(min(PART_ROWS, n_rows - start), 20, seed=part)
        table = pa.Table.from_pandas(X.assign(y=y), preserve_index=False)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=PART_ROWS // 16)
    if writer is not None:
        writer.close()


def run_memory(sizes: Sequence[int], kinds: Sequence[str]) -> dict[str, Any]:
    """Peak memory of every kind of fit for every number of rows, and lines through them."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for n_rows in sizes:
            path = Path(folder) / f"{n_rows}.parquet"
            write_table(path, n_rows)
            for kind in kinds:
                command = [sys.executable, __file__, kind, str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                peak_mb, seconds = (float(number) for number in done.stdout.split()[-2:])
                found.append({"kind": kind, "n_rows": n_rows, "peak_mb": peak_mb, "seconds": seconds})
                print(found[-1], flush=True)
            path.unlink()
    lines = []
    for kind in kinds if len(sizes) > 1 else []:
        own = [f for f in found if f["kind"] == kind]
        start, slope = np.polynomial.polynomial.polyfit([f["n_rows"] for f in own], [f["peak_mb"] for f in own], 1)
        lines.append({"kind": kind, "mb": start, "bytes_per_row": slope * 2**20})
    return {"memory": found, "lines": lines}


if __name__ == "__main__":
    print(*peak_of_fit(*sys.argv[1:]))
