"""R-MTGB on a cluster of two processes: the model of one machine, and no quiet failure."""

import ast
import importlib
import itertools
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import mttab
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab.datasets import make_task_groups

pytest.importorskip("distributed", reason="the extra dask is not installed")

import dask
import dask.array as da
import dask.dataframe as dd
from distributed import Client, LocalCluster, Security

from mttab._dask_crew import Crew
from mttab._dask_pieces import make_pieces
from mttab.dask import DaskRMTGBClassifier, DaskRMTGBRegressor

SMALL = {
    "task_column": "task",
    "early_stopping": False,
    "max_iter_shared": 3,
    "max_iter_partition": 2,
    "max_iter_task": 2,
    "max_leaf_nodes": 4,
    "random_state": 0,
}


def make_client(**security):
    # Without stealing a part is computed where its rows have been put, however busy the machine is.
    with dask.config.set({"distributed.scheduler.work-stealing": False}):
        options = {"processes": True, "threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": 0}
        return Client(LocalCluster(n_workers=2, **options, **security), timeout=60)


@pytest.fixture(scope="module")
def client():
    with dask.config.set({"distributed.comm.timeouts.connect": "20s", "distributed.admin.tick.limit": "1h"}):
        client = make_client()
        yield client
        client.close()
        client.cluster.close(timeout=20)


@pytest.fixture(scope="module")
def table():
    X, y = make_task_groups(n_samples=60, group_sizes=(4, 1), random_state=0)
    X, y = X.reset_index(drop=True), y.reset_index(drop=True)
    X["task"] = "shop " + X["task"].astype(str)
    X.iloc[::7, 0] = np.nan
    return X, y


@pytest.fixture(scope="module")
def local(table):
    return RMTGBRegressor(sharing="blocks", **SMALL).fit(*table)


def spread(values, n=4):
    return dd.from_pandas(values, npartitions=n, sort=False)


def fit_on_both(model, client, X, y, cuts=None, make=dd.from_delayed, **arguments):
    """Fit with rows on both workers.

    cuts : rows of each partition, the first half of them for one worker and the others for the other one
    """
    cuts = np.array_split(np.arange(len(X)), 2) if cuts is None else cuts
    workers = np.repeat(sorted(client.nthreads()), [(len(cuts) + 1) // 2, len(cuts) // 2])
    for _ in range(6):  # Dask is free to compute two partitions on one worker, and sometimes does
        in_parts = [
            make(
                [
                    client.scatter(_rows(values, cut), workers=[w], hash=False)
                    for cut, w in zip(cuts, workers, strict=True)
                ]
            )
            for values in (X, y)
        ]
        model.fit(*in_parts, client=client, **arguments)
        if model.communication_["n_workers"] == 2:
            assert min(model.communication_["n_rows"]) > 0
            assert min(model.communication_["n_messages"]) > 0
            assert sum(model.communication_["n_rows"]) == len(X)
            return model
    raise AssertionError("Dask has computed all partitions on one worker, six times")


def _rows(values, cut):
    return values.iloc[cut] if hasattr(values, "iloc") else values[cut]


def arrays(parts):
    """Futures of arrays as a Dask array."""
    shapes = [part.result().shape for part in parts]
    made = [da.from_delayed(dask.delayed(p), s, dtype=float) for p, s in zip(parts, shapes, strict=True)]
    return da.concatenate(made)


def assert_same(model, local, X):
    assert_allclose(model.predict(X), local.predict(X), rtol=1e-9, atol=1e-12)
    assert_allclose(model.theta_, local.theta_, rtol=1e-9)
    assert model.tasks_.tolist() == local.tasks_.tolist()
    assert model.n_iter_ == local.n_iter_


@pytest.fixture(scope="module")
def fitted(client, table):
    return fit_on_both(DaskRMTGBRegressor(**SMALL), client, *table)


@pytest.mark.slow
def test_a_fit_is_that_of_one_machine(fitted, table, local):
    X, _ = table
    assert_same(fitted, local, X)
    assert isinstance(fitted.predict(spread(X)), dd.Series)
    assert_allclose(fitted.predict(spread(X)).compute(), local.predict(X), rtol=1e-9, atol=1e-12)
    plain = fitted.to_local()
    assert type(plain) is RMTGBRegressor
    assert_allclose(plain.predict(X), local.predict(X), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("is_local", [False, True], ids=["as it is", "to_local"])
def test_a_fitted_model_exports_and_explains_as_the_ordinary_one(fitted, table, local, is_local):
    X, _ = table
    model = fitted.to_local() if is_local else fitted
    for name in ("shared", "partition", "task"):
        assert_allclose(model.decompose(X)[name], local.decompose(X)[name], rtol=1e-9, atol=1e-12)
    for ours, expected in zip(model.shap_values(X), local.shap_values(X), strict=True):
        assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)
    for kind, by in itertools.product(("gain", "split"), ("block", "task")):
        importances = (m.feature_importance(kind, by=by) for m in (model, local))
        pd.testing.assert_frame_equal(*importances, rtol=1e-9, atol=1e-12)
    for task in ("shop 2", None):  # None: a task that fit did not see
        ours, expected = (m.to_lightgbm(task) for m in (model, local))
        codes = expected.encode(X.drop(columns="task"))
        assert np.array_equal(ours.encode(X.drop(columns="task")), codes, equal_nan=True)
        assert_allclose(ours.booster.predict(codes), expected.booster.predict(codes), rtol=1e-9, atol=1e-12)
        assert ours.booster.num_trees() == expected.booster.num_trees() > 0
    assert_allclose(model.outlier_score_, local.outlier_score_, rtol=1e-9)


WITHOUT_DASK = """
import pathlib, pickle, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("dask", "distributed"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Without())
import numpy as np
import mttab

folder = pathlib.Path(sys.argv[1])
X = pickle.loads((folder / "X").read_bytes())
pickled, plain = (pickle.loads((folder / name).read_bytes()) for name in ("pickled", "plain"))
for name, model in {"saved": mttab.load(folder / "model.mttab"), "pickled": pickled, "plain": plain}.items():
    of_task = model.to_lightgbm("shop 1").booster.num_trees()
    np.savez(folder / name, predicted=model.predict(X), shap=model.shap_values(X).values, n_trees=of_task)
assert not {"dask", "distributed"} & set(sys.modules)
try:
    pickled.fit(X, X["x0"])
except ImportError as err:
    (folder / "why").write_text(str(err))
"""


@pytest.mark.slow
def test_a_fitted_model_predicts_and_explains_where_dask_cannot_be_imported(fitted, table, tmp_path):
    X, _ = table
    fitted.save(tmp_path / "model.mttab")
    for name, value in {"X": X, "pickled": fitted, "plain": fitted.to_local()}.items():
        (tmp_path / name).write_bytes(pickle.dumps(value))
    done = subprocess.run([sys.executable, "-c", WITHOUT_DASK, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("saved", "pickled", "plain"):
        with np.load(tmp_path / f"{name}.npz") as found:
            assert np.array_equal(found["predicted"], fitted.predict(X))
            assert_allclose(found["shap"], fitted.shap_values(X).values, rtol=1e-12, atol=1e-15)
            assert found["n_trees"] == fitted.to_lightgbm("shop 1").booster.num_trees()
    assert (tmp_path / "why").read_text() == 'mttab.dask needs Dask: pip install "mttab[dask]".'


@pytest.mark.slow
@pytest.mark.parametrize("is_classifier", [False, True], ids=["regression", "two classes"])
def test_thousands_of_rows_whose_tasks_are_all_on_both_workers(client, is_classifier):
    X, y = make_task_groups(n_samples=600, group_sizes=(8, 2), random_state=1)
    order = np.random.default_rng(1).permutation(len(X))
    X, y = X.iloc[order].reset_index(drop=True), y.iloc[order].reset_index(drop=True)
    cuts = np.array_split(np.arange(len(X)), 6)
    assert all(X["task"].iloc[cut].nunique() == 10 for cut in cuts)
    options = SMALL | {"max_iter_shared": 12, "max_iter_partition": 6, "max_iter_task": 6, "max_leaf_nodes": 15}
    Spread, Whole = DaskRMTGBRegressor, RMTGBRegressor
    if is_classifier:
        y, Spread, Whole = pd.Series(np.where(y > 0, "up", "down")), DaskRMTGBClassifier, RMTGBClassifier
    model = fit_on_both(Spread(**options), client, X, y, cuts)
    assert min(model.communication_["n_rows"]) >= 0.3 * len(X)
    assert all(n % 600 == 0 for n in model.communication_["n_rows"])  # whole tasks
    whole = Whole(sharing="blocks", **options).fit(X, y)
    if is_classifier:
        assert model.classes_.tolist() == ["down", "up"]
        assert_allclose(model.predict_proba(X), whole.predict_proba(X), rtol=1e-9, atol=1e-12)
    else:
        assert_same(model, whole, X)
    assert_allclose(model.train_score_, whole.train_score_, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is nothing to make certificates with")
def test_sums_are_encrypted_where_the_cluster_is(table, local, tmp_path):
    made = [tmp_path / "key.pem", tmp_path / "certificate.pem"]
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=workers".split()
    subprocess.run([*command, "-keyout", made[0], "-out", made[1]], check=True, capture_output=True)
    files = {f"tls_{who}_{what}": str(made[what == "cert"]) for who in ("client", "worker", "scheduler")
             for what in ("key", "cert")}  # fmt: skip
    security = Security(tls_ca_file=str(made[1]), require_encryption=True, **files)
    client = make_client(security=security)
    try:
        assert all(worker.startswith("tls://") for worker in client.nthreads())
        assert_same(fit_on_both(DaskRMTGBRegressor(**SMALL), client, *table), local, table[0])
    finally:
        client.close()
        client.cluster.close(timeout=20)


@pytest.mark.slow
def test_a_task_on_both_workers_is_moved_whole(client, table):
    X, y = table
    order = np.random.default_rng(0).permutation(len(X))
    values = X.drop(columns="task").assign(task=X["task"].str[-1].astype(float)).to_numpy()[order]
    labels = np.digitize(y, [-0.5, 0.5])[order]
    assert all(len(np.unique(values[half, -1])) == 5 for half in np.array_split(np.arange(len(X)), 2))
    options = SMALL | {"task_column": values.shape[1] - 1}
    model = fit_on_both(DaskRMTGBClassifier(**options), client, values, labels, make=arrays)
    assert [n % 60 for n in model.communication_["n_rows"]] == [0, 0]  # each of the five tasks has 60 rows
    whole = RMTGBClassifier(sharing="blocks", **options).fit(values, labels)
    assert_allclose(model.predict_proba(values), whole.predict_proba(values), rtol=1e-9, atol=1e-12)
    lazy = model.predict_proba(da.from_array(values, chunks=(100, 3)))
    assert lazy.shape == (len(values), 3)
    assert_allclose(lazy.compute(), whole.predict_proba(values), rtol=1e-9, atol=1e-12)
    assert model.predict(da.from_array(values, chunks=(100, 3))).compute().tolist() == whole.predict(values).tolist()


@pytest.mark.slow
def test_an_empty_partition_and_a_task_on_one_worker_only(client, table, local):
    X, y = table
    is_last = (X["task"] == "shop 4").to_numpy()
    others, last = np.flatnonzero(~is_last), np.flatnonzero(is_last)
    cuts = [others[:100], others[:0], others[100:], last]
    together = X.iloc[np.concatenate(cuts)]
    model = fit_on_both(DaskRMTGBRegressor(**SMALL), client, X, y, cuts)
    whole = RMTGBRegressor(sharing="blocks", **SMALL).fit(together, y[together.index])
    assert_same(model, whole, X)
    assert model.predict(dd.from_delayed([dask.delayed(X[:0]), dask.delayed(X)])).compute().shape == (len(X),)


@pytest.mark.slow
def test_without_tasks_rows_stay_where_they_are_and_are_drawn_as_on_one_machine(client, table):
    X, y = table
    X = X.drop(columns="task")
    options = {**SMALL, "task_column": None, "max_iter_shared": 5, "subsample": 0.6}
    model = fit_on_both(DaskRMTGBRegressor(**options), client, X, y)
    assert model.communication_["n_rows"] == [150, 150]
    assert_allclose(model.predict(X), RMTGBRegressor(**options).fit(X, y).predict(X), rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_lost_task_column_is_an_error_that_names_it(client, table):
    X, y = table
    with pytest.raises(ValueError, match="task_column='shop' is not a column of X"):
        DaskRMTGBRegressor(task_column="shop").fit(spread(X), spread(y), client=client)

    def lose(part):
        return part.drop(columns="task") if part.index[0] > 100 else part

    lossy = spread(X).map_partitions(lose, meta=X[:0], enforce_metadata=False)
    with pytest.raises(ValueError, match=r"^In partition [23] of X: task_column='task' is not a column of X"):
        DaskRMTGBRegressor(**SMALL).fit(lossy, spread(y), client=client)


@pytest.mark.slow
def test_bad_cells_are_named_with_their_partition_and_rows_that_are_none_at_all_are_an_error(client, table):
    X, y = table
    infinite, unlabelled = X.copy(), y.copy()
    infinite.iloc[200, 1], unlabelled[7] = np.inf, np.nan
    model = DaskRMTGBRegressor(**SMALL)
    with pytest.raises(ValueError, match=r"^In partition 2 of X: .*column 'x1' of X holds inf in row 50"):
        model.fit(spread(infinite), spread(y), client=client)
    with pytest.raises(ValueError, match=r"^In partition 0 of X: .*y contains NaN in 1 of 75 rows \(first: row 7\)"):
        model.fit(spread(X), spread(unlabelled), client=client)
    empty = (dd.from_delayed([dask.delayed(values[:0])] * 2) for values in (X, y))
    with pytest.raises(ValueError, match=r"0 sample.* with a positive weight in all pieces of X"):
        model.fit(*empty, client=client)


class _Note:
    """Writes down what it is called with."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *figures):
        with self.path.open("a") as file:
            file.write(repr(figures) + "\n")


@pytest.mark.slow
def test_a_callback_is_told_of_every_round_and_the_model_is_saved_as_one_without_dask(client, table, local, tmp_path):
    X, y = table
    model = DaskRMTGBRegressor(**SMALL, verbose=1)
    model.fit(spread(X), spread(y), client=client, callback=_Note(tmp_path / "rounds"))
    told = [ast.literal_eval(line) for line in (tmp_path / "rounds").read_text().splitlines()]
    assert [figures[:3] for figures in told] == [(0, i, 3) for i in (1, 2, 3)] + [
        (block, i, 2) for block in (1, 2) for i in (1, 2)
    ]
    assert [figures[4] for figures in told] == [None] * 7
    assert_allclose([figures[3] for figures in told[:3]], -local.train_score_[1:4], rtol=1e-9)
    model.save(tmp_path / "model.mttab")
    again = mttab.load(tmp_path / "model.mttab")
    assert type(again) is RMTGBRegressor
    assert np.array_equal(again.predict(X), model.predict(X))


def test_callbacks_of_scikit_learn_are_refused(table):
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
    X, y = table
    model = DaskRMTGBRegressor(**SMALL).set_callbacks(callback.ScoringMonitor(scoring="r2"))
    with pytest.raises(ValueError, match="pass callback= to fit"):
        model.fit(spread(X), spread(y))


def _fail_in_round_two(block, n_done, *_):
    if n_done == 2:
        raise RuntimeError("the callback has had enough")


@pytest.mark.slow
def test_an_error_on_one_worker_ends_the_fit_on_all(client, table, local):
    X, y = table
    model = DaskRMTGBRegressor(**SMALL)
    with pytest.raises(RuntimeError, match="had enough"):
        model.fit(spread(X), spread(y), client=client, callback=_fail_in_round_two)
    assert not hasattr(model, "theta_")
    assert_same(model.fit(spread(X), spread(y), client=client), local, X)  # the workers are free again


@pytest.mark.slow
def test_an_unpicklable_callback_is_one_clear_sentence(client, table):
    X, y = table
    lock = threading.Lock()

    def callback(*_):
        lock.locked()

    with pytest.raises(ValueError, match=r"callback=.* cannot be sent to the workers"):
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client, callback=callback)
    with pytest.raises(ValueError, match="callback='progress' cannot be called"):
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client, callback="progress")


@pytest.mark.slow
def test_a_worker_that_dies_with_its_result_is_a_clear_error(monkeypatch):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as own:
        crew = Crew(own)
        crew.workers = sorted(own.nthreads())
        of_each = own.run(os.getpid)
        futures = [crew.submit(os.getpid, worker) for worker in crew.workers]
        crew.wait(futures)
        gather = own.gather

        def gather_too_late(*args):
            os.kill(of_each[crew.workers[1]], signal.SIGKILL)
            time.sleep(0.5)
            return gather(*args)

        monkeypatch.setattr(own, "gather", gather_too_late)
        with pytest.raises(RuntimeError, match="was lost while the fit ran"), crew.released():
            crew.results(futures)


@pytest.mark.slow
def test_a_callback_that_no_worker_can_import_is_one_clear_sentence(client, table, tmp_path, monkeypatch):
    X, y = table
    (tmp_path / "only_here.py").write_text("def note(*_):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    note = importlib.import_module("only_here").note
    with pytest.raises(ValueError, match=r"callback cannot be read by the worker .*only_here.* can import"):
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client, callback=note)
    assert len(client.nthreads()) == 2  # and none of them has died of it


@pytest.mark.slow
def test_another_version_or_a_missing_package_on_a_worker_is_one_clear_sentence(client, table):
    X, y = table
    worker = [min(client.nthreads())]

    def set_version(version):
        import mttab

        before, mttab.__version__ = mttab.__version__, version
        return before

    def hide(name, module):
        import sys

        before, sys.modules[name] = sys.modules.get(name), module
        if module is None:
            sys.hidden = before
        else:
            sys.modules[name] = sys.hidden

    before = client.run(set_version, "0.0.1", workers=worker)[worker[0]]
    with pytest.raises(RuntimeError, match=r"has mttab 0\.0\.1, but the client has .*; install the same version"):
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client)
    client.run(set_version, before, workers=worker)
    client.run(hide, "numba", None, workers=worker)
    with pytest.raises(RuntimeError, match=r"cannot import numba .*; install mttab with its dependencies"):
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client)
    client.run(hide, "numba", "back", workers=worker)


@pytest.mark.slow
def test_another_python_on_a_worker_is_one_clear_sentence_before_anything_is_sent_to_it(client, table, monkeypatch):
    X, y = table
    worker = [min(client.nthreads())]

    def set_python(version):
        from distributed import versions

        info = versions.get_system_info()
        versions.get_system_info = lambda: info | {"python": version}
        return info["python"]

    before = client.run(set_python, "3.99.1.final.0", workers=worker)[worker[0]]
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match=r"has Python 3\.99.*; install the same"):
        patch.setattr(client, "run", None)
        DaskRMTGBRegressor(**SMALL).fit(spread(X), spread(y), client=client)
    client.run(set_python, before, workers=worker)


class _Touch:
    """Callback that writes down, when the first round is over, how many meetings the worker is in."""

    def __init__(self, path):
        self.path = path

    def __call__(self, *_):
        from mttab import _dask_meeting

        if not self.path.exists():
            beside = self.path.with_suffix(".part")
            beside.write_text(str(len(_dask_meeting._OPEN)))
            beside.rename(self.path)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["first", "last"])  # one of them is where the sums are added up
def test_a_worker_killed_in_mid_fit_is_a_clear_error_and_no_model(table, which, tmp_path):
    client = make_client()
    try:
        fit_on_both(DaskRMTGBRegressor(**SMALL), client, *table)  # compiles
        for attempt in range(6):
            if _kill_in_mid_fit(client, table, which, tmp_path / f"a round of fit {attempt} is over"):
                return
        raise AssertionError("Dask has computed both partitions on one worker, six times")
    finally:
        client.close()
        client.cluster.close(timeout=20)


def _kill_in_mid_fit(client, table, which, is_under_way):
    """Whether a fit on both workers was under way, of which one was then killed."""
    pids = client.run(os.getpid)
    victim, told = pids[min(pids) if which == "first" else max(pids)], _Touch(is_under_way)
    killed = []

    def kill():
        until = time.monotonic() + 60
        while not is_under_way.exists() and time.monotonic() < until:
            time.sleep(0.01)
        if int(is_under_way.read_text()) > 0:  # the workers talk to each other
            killed.append(victim)
            os.kill(victim, signal.SIGKILL)

    halves = np.array_split(np.arange(len(table[0])), 2)
    workers = sorted(client.nthreads())
    in_parts = [
        dd.from_delayed(
            [client.scatter(t.iloc[h], workers=[w], hash=False) for h, w in zip(halves, workers, strict=True)]
        )
        for t in table
    ]
    model = DaskRMTGBRegressor(**SMALL | {"max_iter_shared": 3000})
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        model.fit(*in_parts, client=client, callback=told)
    except RuntimeError as err:
        assert re.search("was lost while the fit ran", str(err))
        assert not hasattr(model, "theta_")
    finally:
        killer.join()
    assert bool(killed) != hasattr(model, "theta_")
    return bool(killed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warm_start": True}, "warm_start=True is not available"),
        ({"sharing": "groups"}, "sharing='groups'"),
        ({"n_task_groups": 3}, "n_task_groups=3"),
        ({"validation": [([0], [1])]}, "validation was passed"),
        ({"n_averaged": 2}, 'n_averaged=2 averages models .*; use n_averaged="auto"'),
        ({"early_stopping": True}, "early_stopping=True with validation_fraction=0.15"),
    ],
)
def test_an_option_that_a_cluster_does_not_have_is_refused_by_name(table, options, message):
    X, y = table
    with pytest.raises(ValueError, match=message):
        DaskRMTGBRegressor(**options).fit(spread(X), spread(y))


def test_without_a_cluster_or_without_collections_the_error_says_what_to_do(table, monkeypatch):
    X, y = table

    def default_client():
        raise ValueError("No clients found")

    monkeypatch.setattr("distributed.default_client", default_client)
    with pytest.raises(ValueError, match="make one first"):
        DaskRMTGBRegressor().fit(spread(X), spread(y))
    with pytest.raises(ValueError, match="y is a Series, but a fit on a cluster takes Dask collections"):
        make_pieces(spread(X), y, None, None)
    with pytest.raises(ValueError, match="y has 2 partitions, but X has 4"):
        make_pieces(spread(X), spread(y, 2), None, None)
