"""Networks of tokens and of experts under torchrun: two processes train one, without a word about it in the code."""

import inspect
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from mttab.datasets import make_multitask, make_task_groups

pytest.importorskip("torch", reason="the extra neural is not installed")

import mttab
from mttab import load
from mttab._core.neural import ranks

COMMON = {"max_epochs": 2, "batch_size": 50, "precision": "float64", "device": "cpu"}
OPTIONS = {
    "plain": {"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 2},
    "uncertainty": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 1},
        "task_weighting": "uncertainty",
    },
    "upgrad": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 1},
        "task_weighting": "upgrad",
    },
    "sharpness": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 1, "sam_rho": 0.05},
        "task_weighting": "uncertainty",
    },
    "pretext before": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 1},
        **{"pretext": "before", "pretext_epochs": 2},
    },
    "pretext during": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 1, "pretext": "during"},
        "task_weighting": "pcgrad",
    },
    "row tasks": {
        **{"random_state": 0, "dropout": 0.0, "sample_attention": False, "n_members": 2},
        **{"task_column": "shop", "target_scaling": "task"},
    },
    "experts": {"random_state": 0, "dropout": 0.0, "n_members": 1},
    "experts of row tasks": {
        **{"random_state": 0, "dropout": 0.0, "n_members": 1, "task_column": "shop"},
        "task_weighting": "uncertainty",
    },
    "row tasks, attending rows, dropout, no seed": {
        **{"task_column": "shop", "sample_attention": True, "dropout": 0.2, "n_members": 1, "context_size": 64},
    },
    "attending rows, dropout, no seed": {"sample_attention": True, "dropout": 0.2, "n_members": 1, "context_size": 64},
}
CLASSES = {
    "row tasks": "MultiTabNetRegressor",
    "experts": "MMoE",
    "experts of row tasks": "MMoEClassifier",
    "row tasks, attending rows, dropout, no seed": "MultiTabNetClassifier",
}


def make_table(name, options):
    """What a network of the class of this name is fitted on."""
    if "task_column" not in options:
        return make_multitask(201, 4, 2, task_types=["regression", "binary"], random_state=0)
    X, y = make_task_groups(40, group_sizes=(3, 2), random_state=0)
    X = X.rename(columns={"task": "shop"}).assign(shop="shop " + X["task"].astype(str))
    return X, np.where(y > 0, "up", "down") if name.endswith("Classifier") else y


def predicted(net, X):
    """One number per row."""
    if type(net).__name__.endswith("Classifier"):
        return net.predict_proba(X)[:, 0]
    return np.asarray(net.predict(X), dtype=float).reshape(len(X), -1)[:, 0]


def class_of(name):
    return CLASSES.get(name, "MultiTabNet")


SCRIPT = """
import atexit, json, os, pathlib, sys
import numpy as np
import pandas as pd
import torch.distributed
import mttab
from mttab import MultiTabNet
from mttab.datasets import make_multitask, make_task_groups

{functions}

folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
# Registered before any fit, so it is asked after all that fits have registered.
atexit.register(lambda: (folder / f"joined at the end {rank}").write_text(str(torch.distributed.is_initialized())))
for i, (name, options) in enumerate(json.loads(sys.argv[2])):
    X, y = make_table(name, options)
    net = getattr(mttab, name)(**options).fit(X, y)
    net.history_.to_csv(folder / f"history-{i}-{rank}.csv", index=False, float_format="%.17g")
    np.save(folder / f"prediction-{i}-{rank}.npy", predicted(net, X))
    context = getattr(net._networks[0], "context", None)
    np.save(folder / f"context-{i}-{rank}.npy", np.empty(0) if context is None else context.numeric.numpy())
    net.save(folder / f"net-{i}-{rank}.mttab")
    net.save(folder / f"net-{i}.mttab")

X, Y = make_table("MultiTabNet", {})
frame, Y = pd.DataFrame(np.asarray(X)).add_prefix("x").assign(kind="oak"), np.asarray(Y)
mistakes = {}
weight, is_second = np.ones(len(X)), rank == "1"
one_cell, one_level, one_label, one_weight = frame.copy(), frame.copy(), Y.copy(), weight.copy()
one_cell.loc[3, "x0"] += 0.001
one_level.loc[3, "kind"] = "fir"
one_label[3, 1] = 1.0 - one_label[3, 1]
one_weight[3] = 2.0
mistakes["a cell"] = {}, (one_cell, Y)
mistakes["a level"] = {}, (one_level, Y)
mistakes["a label"] = {}, (frame, one_label)
mistakes["a weight"] = {}, (frame, Y, one_weight)
mistakes["a row"] = {}, (frame[:150], Y[:150])
mistakes["an option"] = {"embedding_dim": 16}, (frame, Y)
mistakes["a seed"] = {"random_state": 1}, (frame, Y)
for name, (options, arguments) in mistakes.items():
    common = {"n_members": 1, "max_epochs": 1, "random_state": 0}
    try:
        if is_second:
            MultiTabNet(**common | options).fit(*arguments)
        else:
            MultiTabNet(**common).fit(*(frame, Y, weight)[: len(arguments)])
    except ValueError as err:
        (folder / f"{name} differs in {rank}").write_text(str(err))
mapped = np.memmap(folder / f"labels-{rank}", dtype=np.float64, mode="w+", shape=Y.shape)
mapped[:] = one_label if is_second else Y
try:
    MultiTabNet(**common).fit(frame, mapped)
except ValueError as err:
    (folder / f"a label in a memory map differs in {rank}").write_text(str(err))
one_cell.assign(y=Y[:, 0]).to_parquet(folder / "1.parquet")
frame.assign(y=Y[:, 0]).to_parquet(folder / "0.parquet")
try:
    MultiTabNet(**common).fit(folder / f"{rank}.parquet", y="y")
except ValueError as err:
    (folder / f"a cell of a file differs in {rank}").write_text(str(err))
MultiTabNet(**common, verbose=int(rank), n_jobs=1 + int(rank)).fit(frame, Y)
(folder / f"after all that {rank} fits").touch()
"""
DIFFERENCES = {
    "a cell": "X is not the same",
    "a level": "X is not the same",
    "a label": "y is not the same",
    "a weight": "sample_weight is not the same",
    "a row": "X is not the same",
    "an option": "The option embedding_dim is not the same",
    "a seed": "The option random_state is not the same",
    "a cell of a file": "X is not the same",
    "a label in a memory map": "y is not the same",
}


def torchrun(folder, options):
    functions = inspect.getsource(make_table) + inspect.getsource(predicted)
    (folder / "train.py").write_text(SCRIPT.replace("{functions}", functions))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(folder / "train.py"), str(folder), json.dumps(options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    done = torchrun(folder, [(class_of(name), COMMON | options) for name, options in OPTIONS.items()])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("i", range(len(OPTIONS)), ids=list(OPTIONS))
def test_two_processes_have_the_same_history_predictions_and_context(folder, i):
    first, second = (pd.read_csv(folder / f"history-{i}-{rank}.csv") for rank in (0, 1))
    name = list(OPTIONS)[i]
    n_networks = (2 if name in ("plain", "pretext before", "row tasks") else 1) * (1 if "experts" in name else 2)
    assert len(first) == COMMON["max_epochs"] * n_networks
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    for what in ("prediction", "context"):
        of_ranks = [np.load(folder / f"{what}-{i}-{rank}.npy") for rank in (0, 1)]
        assert np.array_equal(*of_ranks, equal_nan=True)
    assert len(of_ranks[0]) == (64 if "attending" in name else 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, options in OPTIONS.items() if "random_state" in options])
def test_two_processes_train_the_network_of_one(folder, name):
    i, options = list(OPTIONS).index(name), COMMON | OPTIONS[name]
    if options.get("task_weighting") in ("upgrad", "pcgrad"):
        pytest.importorskip("torchjd", reason="the extra torchjd is not installed")
    X, y = make_table(class_of(name), options)
    alone = getattr(mttab, class_of(name))(**options).fit(X, y)
    history = pd.read_csv(folder / f"history-{i}-0.csv")
    for loss in {"train_loss", "pretext_loss"} & set(history):
        assert_allclose(history[loss], alone.history_[loss], rtol=1e-9)
    assert_allclose(np.load(folder / f"prediction-{i}-0.npy"), predicted(alone, X), rtol=1e-7, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("what", list(DIFFERENCES))
def test_what_differs_between_processes_is_named_in_all_of_them(folder, what):
    for rank in (0, 1):
        message = (folder / f"{what} differs in {rank}").read_text()
        assert message.startswith(DIFFERENCES[what])
        assert "process 1 differs from process 0; pass the same rows and options in all" in message


@pytest.mark.slow
def test_processes_whose_mistakes_were_refused_can_go_on_and_may_tell_more_or_use_more_threads(folder):
    assert all((folder / f"after all that {rank} fits").exists() for rank in (0, 1))


@pytest.mark.slow
def test_processes_part_before_python_ends(folder):
    # Threads of gloo that outlive it abort a process now and then.
    assert [(folder / f"joined at the end {rank}").read_text() for rank in (0, 1)] == ["False", "False"]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_first_process_writes_the_file_without_a_guard_in_the_script(folder, name):
    i = list(OPTIONS).index(name)
    assert (folder / f"net-{i}-0.mttab").exists()
    assert not (folder / f"net-{i}-1.mttab").exists()
    X, _ = make_table(class_of(name), OPTIONS[name])
    net = load(folder / f"net-{i}.mttab")
    assert type(net).__name__ == class_of(name)
    assert np.array_equal(predicted(net, X), np.load(folder / f"prediction-{i}-0.npy"))


def test_an_ordinary_process_trains_alone(monkeypatch):
    assert (ranks.is_launched(), ranks.n_ranks(), ranks.rank()) == (False, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "2")  # left by something that is no launcher
    assert not ranks.is_launched()
    assert ranks.number_of_first(7) == 7
