"""Rows in pieces give the model of the whole: the sums of several holders of rows, without a cluster around them."""

import threading

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._boosting_pieces import BinnedRows, encode, merge_columns, merge_labels, read_columns, read_labels
from mttab._boosting_training import boost_rows, finish
from mttab._core.boosting import rows
from mttab._core.boosting.binning import SUMMARY_SIZE, merge_summaries, summarise_column
from mttab._core.boosting.distributed import merged_forest, own_part, spread_quantiles
from mttab._core.boosting.forest import ForestBuilder
from mttab._core.boosting.quantile import weighted_quantile
from mttab._core.boosting.rows import Peers
from mttab._core.sources import Piece
from mttab.datasets import make_task_groups

SMALL = {
    "task_column": "task",
    "sharing": "blocks",
    "early_stopping": False,
    "max_iter_shared": 6,
    "max_iter_partition": 4,
    "max_iter_task": 3,
    "random_state": 0,
}


class ThreadPeers(Peers):
    """Peers in threads of one process: everybody waits for everybody, and adds up in the order of the ranks."""

    def __init__(self, rank, shared):
        self.rank, self.shared, self.n_ranks = rank, shared, len(shared[1])

    def sum(self, values):
        barrier, slots = self.shared
        slots[self.rank] = values
        barrier.wait(timeout=60)
        total = sum(slots[1:], slots[0].copy())
        barrier.wait(timeout=60)
        return total


def run_in_threads(n, work):
    """Results of ``work(peers)`` in ``n`` threads."""
    shared = threading.Barrier(n), [None] * n
    results, errors = [None] * n, []

    def run(rank):
        try:
            results[rank] = work(ThreadPeers(rank, shared))
        except Exception as err:  # raised in the test below
            errors.append(err)
            shared[0].abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results


def fit_in_pieces(model, X, y, weight=None, n_pieces=3, explicit=None, has_whole_tasks=True):
    """A copy of ``model`` fitted on rows that two threads hold, each with whole tasks or with every second row."""
    model = clone(model)
    cuts = np.array_split(np.arange(len(X)), n_pieces)
    pieces = [Piece(X.iloc[c], y.iloc[c], None if weight is None else weight[c]) for c in cuts]
    problem = merge_labels(model, [read_labels(model, [piece]) for piece in pieces])
    summaries = [read_columns(model, problem, [piece]) for piece in pieces]
    problem = merge_columns(model, problem, summaries, explicit is not None)
    starts = np.cumsum([0] + [0 if w is None else int((w > 0).sum()) for w in (p.weight for p in pieces)])
    if weight is None:
        starts = np.cumsum([0] + [len(piece.X) for piece in pieces])
    binned = BinnedRows.joined([encode(model, problem, p, int(s)) for p, s in zip(pieces, starts, strict=False)])
    owner = np.arange(problem.labels.n_tasks) % 2
    seed = int(np.random.RandomState(model.random_state).randint(2**31 - 1))

    def work(peers):
        is_own = owner == peers.rank
        own = binned.take(is_own[binned.task] if has_whole_tasks else binned.position % 2 == peers.rank)
        fitted = boost_rows(
            model, problem, own, seed=seed, n_threads=1, peers=peers, is_own_task=is_own, explicit=explicit
        )
        return fitted, own_part(fitted.model.forest, is_own, has_common=peers.rank == 0)

    results = run_in_threads(2, work)
    fitted = results[0][0]
    builder = ForestBuilder(problem.mapper, problem.labels.n_tasks)
    fitted.model.forest = merged_forest(builder, fitted.model.forest, [part for _, part in results])
    finish(model, problem, fitted, seed)
    return model


@pytest.fixture(scope="module")
def table():
    X, y = make_task_groups(n_samples=60, group_sizes=(4, 1), random_state=0)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X.iloc[order].reset_index(drop=True), y.iloc[order].reset_index(drop=True)
    X.iloc[::7, 0] = np.nan
    X["kind"] = pd.Categorical(np.array(["oak", "fir", "elm"])[np.arange(len(X)) % 3])
    y += (X["kind"] == "oak") * 1.0
    return X, y


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"grow_policy": "leafwise", "max_leaf_nodes": 15},
        {"sharing": "category", "max_features": 0.5},
        {"sharing": "category", "max_features": 0.5, "grow_policy": "leafwise"},
        {"sharing": "pooled", "subsample": 0.7},
        {"sharing": "separate"},
        {"linear_start": True},
        {"linear_start": True, "loss": "poisson"},
        {"loss": "absolute_error"},
        {"loss": "huber", "huber_delta": 0.5, "target_scaling": "task"},
        {"loss": "quantile", "quantile": 0.9},
        {"loss": "poisson"},
        {"monotonic_cst": {"x1": 1}, "task_weight": "balanced"},
        {"algorithm": "paper", "theta_init": "normal", "max_leaf_nodes": 2},
        {"early_stopping": True, "validation_fraction": None, "n_iter_no_change": 1},
    ],
    ids=str,
)
def test_a_regressor_is_the_one_of_all_rows(table, options):
    X, y = table
    y = np.abs(y) if options.get("loss") == "poisson" else y
    model = RMTGBRegressor(**SMALL | options)
    assert_same_model(fit_in_pieces(model, X, y), clone(model).fit(X, y), X)


@pytest.mark.parametrize(
    ("n_classes", "options"),
    [(2, {}), (3, {"multi_strategy": "multi_output_tree"}), (3, {"class_weight": "balanced"})],
)
def test_a_classifier_is_the_one_of_all_rows(table, n_classes, options):
    X, y = table
    labels = pd.Series(np.array(["low", "middle", "high"])[np.digitize(y, [-0.5, 0.5][: n_classes - 1])])
    model = RMTGBClassifier(**SMALL | options)
    spread, whole = fit_in_pieces(model, X, labels), clone(model).fit(X, labels)
    assert spread.classes_.tolist() == whole.classes_.tolist()
    assert_allclose(spread.predict_proba(X), whole.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_weights_and_rows_without_weight_count_as_in_one_piece(table):
    X, y = table
    weight = np.random.default_rng(1).integers(0, 3, len(X)).astype(float)
    model = RMTGBRegressor(**SMALL)
    assert_same_model(fit_in_pieces(model, X, y, weight), clone(model).fit(X, y, sample_weight=weight), X)


def test_explicit_validation_rows_end_the_blocks_at_the_same_rounds(table):
    X, y = table
    explicit = {"X_val": X[:60], "y_val": y[:60], "task_val": None, "sample_weight_val": None}
    options = {"early_stopping": True, "n_iter_no_change": 2, "max_iter_shared": 60, "linear_start": False}
    model = RMTGBRegressor(**SMALL | options)
    spread = fit_in_pieces(model, X[60:], y[60:], explicit=explicit)
    whole = clone(model).fit(X[60:], y[60:], X_val=X[:60], y_val=y[:60])
    assert spread.n_iter_ == whole.n_iter_
    left_open = clone(model).set_params(linear_start="auto")
    assert not fit_in_pieces(left_open, X[60:], y[60:], explicit=explicit).linear_start_  # no race of several processes
    assert_same_model(spread, whole, X)


@pytest.mark.parametrize("options", [{}, {"loss": "absolute_error"}, {"target_scaling": "task"}], ids=str)
def test_rows_are_drawn_as_in_one_place_though_a_task_is_in_two(table, options):
    X, y = table
    y = y.round(1)  # some values are in both places
    model = RMTGBRegressor(**SMALL | {"sharing": "pooled", "max_iter_task": 0, "subsample": 0.5} | options)
    whole = clone(model).fit(X, y)
    assert_same_model(fit_in_pieces(model, X, y, has_whole_tasks=False), whole, X)
    labels = pd.Series(np.where(y > 0, "yes", "no"))
    options = {name: value for name, value in model.get_params().items() if name in SMALL or name == "subsample"}
    classifier = RMTGBClassifier(**options)
    spread, whole = fit_in_pieces(classifier, X, labels, has_whole_tasks=False), clone(classifier).fit(X, labels)
    assert_allclose(spread.predict_proba(X), whole.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_rows_of_too_many_different_y_are_drawn_by_each_holder_for_itself(table, monkeypatch):
    X, y = table
    model = RMTGBRegressor(**SMALL | {"sharing": "pooled", "max_iter_task": 0, "subsample": 0.5})
    whole = clone(model).fit(X, y)
    assert_same_model(fit_in_pieces(model, X, y, has_whole_tasks=False), whole, X)
    monkeypatch.setattr(rows, "MAX_SHARED_VALUES", 100)
    spread = fit_in_pieces(model, X, y, has_whole_tasks=False)
    assert not np.allclose(spread.predict(X), whole.predict(X))
    assert abs(spread.score(X, y) - whole.score(X, y)) < 0.1


def test_derivatives_of_many_rows_are_rounded_as_on_one_machine():
    X, y = make_task_groups(n_samples=600, group_sizes=(4, 1), random_state=1)
    X, y = X.reset_index(drop=True), y.reset_index(drop=True)
    options = SMALL | {"max_bins": 64, "max_leaf_nodes": 24, "min_samples_leaf": 5}
    model = RMTGBRegressor(**options)
    assert_same_model(fit_in_pieces(model, X, y), clone(model).fit(X, y), X)
    labels = pd.Series(np.where(y > 0, "yes", "no"))
    classifier = RMTGBClassifier(**options)
    spread, whole = fit_in_pieces(classifier, X, labels), clone(classifier).fit(X, labels)
    assert_allclose(spread.predict_proba(X), whole.predict_proba(X), rtol=1e-9, atol=1e-12)
    # Gains are what shows whether derivatives have been rounded.
    assert_allclose(spread.feature_importances_, whole.feature_importances_, rtol=1e-12)


def test_derivatives_are_not_rounded_where_bounds_of_leaf_values_come_from_their_sums():
    X, y = make_task_groups(n_samples=600, group_sizes=(4, 1), random_state=1)
    X, y = X.reset_index(drop=True), y.reset_index(drop=True)
    model = RMTGBRegressor(**SMALL | {"max_bins": 64, "max_leaf_nodes": 24, "monotonic_cst": {"x1": 1}})
    spread, whole = fit_in_pieces(model, X, y), clone(model).fit(X, y)
    assert_same_model(spread, whole, X)
    assert_allclose(spread.feature_importances_, whole.feature_importances_, rtol=1e-12)


def assert_same_model(spread, whole, X):
    """The same up to the rounding of sums."""
    assert spread.n_iter_ == whole.n_iter_
    assert spread.tasks_.tolist() == whole.tasks_.tolist()
    assert_allclose(spread.theta_, whole.theta_, rtol=1e-9, atol=1e-12)
    assert_allclose(spread.predict(X), whole.predict(X), rtol=1e-9, atol=1e-12)
    assert_allclose(spread.train_score_, whole.train_score_, rtol=1e-9, atol=1e-12)
    assert_allclose(spread.feature_importances_, whole.feature_importances_, rtol=1e-7, atol=1e-12)


def test_quantiles_of_spread_values_are_those_of_all():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=400), 1)
    weight, group = rng.integers(1, 4, 400).astype(float), rng.integers(0, 5, 400)
    for quantile in (0.1, 0.5, 0.9):
        found = run_in_threads(
            2,
            lambda p, q=quantile: spread_quantiles(
                p, values[p.rank :: 2], weight[p.rank :: 2], group[p.rank :: 2], 6, q
            ),
        )
        expected = [weighted_quantile(values[group == g], weight[group == g], quantile) for g in range(6)]
        assert_allclose(found[0], expected, atol=1e-15)
        assert_allclose(found[0], found[1], atol=0)


def test_a_summary_keeps_quantiles_of_many_values_to_its_resolution():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=5 * SUMMARY_SIZE), rng.normal(2.0, size=3 * SUMMARY_SIZE)]
    values, mass = merge_summaries([summarise_column(part, np.ones(len(part))) for part in parts])
    everything = np.sort(np.concatenate(parts))
    assert mass.sum() == len(everything)
    assert len(values) <= 2 * SUMMARY_SIZE
    for share in (0.01, 0.3, 0.5, 0.99):
        value = values[np.searchsorted(np.cumsum(mass), share * len(everything))]
        assert abs(np.searchsorted(everything, value) / len(everything) - share) < 2 / SUMMARY_SIZE


def test_pieces_with_other_columns_are_refused(table):
    X, y = table
    model = RMTGBRegressor(**SMALL)
    counts = [read_labels(model, [Piece(X, y)]), read_labels(model, [Piece(X.drop(columns="kind"), y)])]
    with pytest.raises(ValueError, match="in one piece"):
        merge_labels(model, counts)
