"""Rows per second of MultiTabNet in training and prediction, with and without row attention."""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import mttab
from mttab.datasets import make_multitask_regression
from run_store import describe_machine

N_FEATURES, N_TASKS, BATCH = 32, 7, 2048
ROWS_ON_CPU, ROWS_ON_GPU = 16_384, 400_000
ONE_BLOCK: dict[str, Any] = {
    **{"embedding_dim": 16, "n_blocks": 1, "batch_size": BATCH},
    **{"n_members": 1, "companion_dim": 0},
}
ROWS: dict[str, Any] = {**ONE_BLOCK, "sample_attention": True}
SETTINGS: dict[str, dict[str, Any]] = {
    "one block, e = 16": ONE_BLOCK,
    "one block, e = 16, linear embedding": {**ONE_BLOCK, "numerical_embedding": "linear"},
    "one block, e = 16, row attention": ROWS,
    "one block, e = 16, row attention over 2048 rows at full width": {
        **ROWS,
        "sample_attention_dim": None,
        "context_size": BATCH,
    },
    "paper_parameters()": mttab.MultiTabNet.paper_parameters(),
    "defaults": {},
    "defaults, one member": {"n_members": 1},
    "defaults, one member, no companion": {"n_members": 1, "companion_dim": 0},
}


def run(device: str, n_jobs: int, output: Path) -> None:
    """Measure, print, and write a JSON file."""
    machine = describe_machine(("torch",))
    on_gpu = device != "cpu" and torch.cuda.is_available()
    n_rows, n_epochs = (ROWS_ON_GPU, 5) if on_gpu else (ROWS_ON_CPU, 1)
    table = measure(n_rows, n_epochs, device, n_jobs)
    print(f"\nRows per second, {N_FEATURES} features, {N_TASKS} tasks, batches of {BATCH} unless the defaults choose\n")
    print(table.to_string())
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps({"machine": machine, "rows_per_second": table.to_dict("index")}, indent=1))
    print(f"\ntables: {output}")


def measure(n_rows: int, n_epochs: int, device: str, n_jobs: int) -> pd.DataFrame:
    """Rows per second of each of `SETTINGS`, best of three; training without the encoding of the table before it.

    Members are counted as training rows, as all of them see every row; a predicted row goes through all members.
    """
    X, Y = make_multitask_regression(n_rows, N_FEATURES, N_TASKS, random_state=0)
    common = {"early_stopping": False, "device": device, "random_state": 0, "n_jobs": n_jobs}
    torch.set_num_threads(n_jobs)
    rows = []
    for name, options in SETTINGS.items():
        without = mttab.MultiTabNet(**options, **common, max_epochs=0)
        model = mttab.MultiTabNet(**options, **common, max_epochs=n_epochs)
        training = prediction = 0.0
        for _ in range(3):
            seconds = seconds_of(partial(model.fit, X, Y)) - seconds_of(partial(without.fit, X, Y))
            training = max(training, n_rows * n_epochs * model.n_members / seconds)
            prediction = max(prediction, n_rows / seconds_of(partial(model.predict, X)))
        rows.append({"setting": name, "training": round(training), "prediction": round(prediction)})
        print(f"{name}: training {training:,.0f}, prediction {prediction:,.0f}", flush=True)
    return pd.DataFrame(rows).set_index("setting")


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
