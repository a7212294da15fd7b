"""Many rounds in one kernel give the model that rounds one at a time give."""

import numpy as np
import pandas as pd
import pytest
from numba import njit, types
from numba.core.errors import TypingError

from equality import assert_same
from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting import fused_rounds, rmtgb
from mttab._core.boosting.addresses import address_of, count_at, run_at
from mttab._core.boosting.forest import BLOCKS, PARTITION
from mttab._core.boosting.fused_kernel import NOT_PACKED, run_rounds
from mttab._core.boosting.small_nodes import SMALL_NODE
from mttab._core.boosting.splitting import bounded_value

N_TASKS = 12
QUICK = {"max_iter_shared": 45, "max_iter_partition": 40, "max_iter_task": 35, "random_state": 0, "n_jobs": 1}


def make_rows(n=1200, n_tasks=N_TASKS, seed=0):
    """Two groups of tasks, a category, and holes."""
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    task = rng.integers(0, n_tasks, n)
    kind = rng.integers(0, 40, n)
    slope = np.where(task % 2 == 0, 1.0, -1.0)
    y = slope * X["a"] + np.sin(2 * X["b"]) + 0.3 * rng.normal(size=n_tasks)[task] + 0.2 * rng.normal(size=40)[kind]
    X.loc[rng.random(n) < 0.1, "c"] = np.nan
    X["kind"] = pd.Categorical(kind)
    X["task"] = task
    return X, (y + 0.3 * rng.normal(size=n)).to_numpy()


@pytest.fixture
def count_rounds(monkeypatch):
    """Numbers of rounds done at once, block by block; ``allow(False)`` leaves none to be done so."""
    done = {block: 0 for block in BLOCKS}
    run, can_run = fused_rounds.FusedRounds.run, rmtgb.can_run

    def counted(self, *args):
        n_done, has_stopped = run(self, *args)
        done[BLOCKS[self.block]] += n_done
        return n_done, has_stopped

    monkeypatch.setattr(fused_rounds.FusedRounds, "run", counted)

    def allow(is_allowed):
        monkeypatch.setattr(rmtgb, "can_run", can_run if is_allowed else lambda *args: False)
        done.update(dict.fromkeys(BLOCKS, 0))
        return done

    return allow


def assert_same_model(one, other):
    first, second = one._fitted.model, other._fitted.model
    assert_same(first.forest.nodes, second.forest.nodes)
    assert_same(first.forest.trees, second.forest.trees)
    np.testing.assert_array_equal(first.forest.mixing, second.forest.mixing)
    np.testing.assert_array_equal(first.theta, second.theta)
    assert first.forest.n_rounds == second.forest.n_rounds
    assert first.train_loss == second.train_loss
    assert first.validation_loss == second.validation_loss


def fit_both_ways(count_rounds, estimator_class, X, y, used, **options):
    """The model that is fitted with many rounds at once, which has to be the one that is fitted without."""
    fit = {name: options.pop(name) for name in ("sample_weight",) if name in options}
    done = count_rounds(True)
    model = estimator_class(task_column="task", **QUICK | options).fit(X, y, **fit)
    assert {block for block, n in done.items() if n > 0} == set(used)
    done = count_rounds(False)
    other = estimator_class(task_column="task", **QUICK | options).fit(X, y, **fit)
    assert not any(done.values())
    assert_same_model(model, other)
    return model


SHARINGS = {
    "pooled": ["shared", "task"],
    "category": ["shared", "task"],
    "groups": ["partition", "task"],
    "separate": ["task"],
    "blocks": ["shared", "partition", "task"],
}


@pytest.mark.parametrize("estimator_class", [RMTGBRegressor, RMTGBClassifier])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_the_model_is_the_same_for_every_way_to_share(count_rounds, estimator_class, sharing):
    X, y = make_rows()
    y = y if estimator_class is RMTGBRegressor else (y > 0.2).astype(int)
    model = fit_both_ways(count_rounds, estimator_class, X, y, SHARINGS[sharing], sharing=sharing)
    assert sum(model.n_iter_.values()) > 0


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "huber"},
        {"loss": "poisson", "target_scaling": None},
        {"early_stopping": False},
        {"early_stopping": False, "sharing": "blocks", "subsample": 0.6},
        {"subsample": 0.5, "n_averaged": 1},
        {"sharing": "groups", "n_task_groups": 3, "subsample": 0.7},
        {"max_features": 0.5, "n_iter_no_change": 3},
        {"max_leaf_nodes_task": 3, "min_samples_leaf_task": 2},
        {"monotonic_cst": {"a": 1}},
        {"max_bins": 255},
    ],
    ids=str,
)
def test_the_model_is_the_same_with_other_options(count_rounds, options):
    X, y = make_rows()
    y = np.exp(0.3 * y) if options.get("loss") == "poisson" else y
    done = count_rounds(True)
    model = RMTGBRegressor(task_column="task", **QUICK | options).fit(X, y)
    assert any(done.values())
    count_rounds(False)
    assert_same_model(model, RMTGBRegressor(task_column="task", **QUICK | options).fit(X, y))


@pytest.mark.parametrize("weight", ["ones", "uneven", "zeros"])
def test_the_model_is_the_same_with_weights(count_rounds, weight):
    X, y = make_rows()
    draw = np.random.default_rng(1).random(len(y))
    given = {"ones": np.ones(len(y)), "uneven": 0.5 + draw, "zeros": np.where(draw < 0.2, 0.0, 1.0)}[weight]
    fit_both_ways(count_rounds, RMTGBRegressor, X, y, BLOCKS, sharing="blocks", sample_weight=given)


def test_the_model_is_the_same_on_packed_rows(count_rounds):
    X, y = make_rows(6000)
    fit_both_ways(count_rounds, RMTGBRegressor, X, y, ["shared", "task"], sharing="category", n_averaged=1)


def test_rounds_that_cannot_be_packed_are_left_to_others(count_rounds, monkeypatch):
    X, y = make_rows(4000)
    ended, run_rounds = [], fused_rounds.run_rounds

    def run(*args):
        n_done, end = run_rounds(*args)
        ended.append((n_done, end))
        return n_done, end

    monkeypatch.setattr(fused_rounds, "run_rounds", run)
    # About half of the samples are too small to be packed.
    options = {"sharing": "pooled", "early_stopping": False, "subsample": SMALL_NODE / len(y)}
    fit_both_ways(count_rounds, RMTGBRegressor, X, y, ["shared", "task"], **options)
    assert any(n_done > 0 for n_done, end in ended if end == NOT_PACKED)


def test_options_of_any_type_of_number_give_the_same_model():
    X, y = make_rows(300)
    options = {"max_leaf_nodes": 8, "max_leaf_nodes_task": 4, "max_depth": 3, "n_iter_no_change": 5, "max_bins": 32}
    options |= {"min_samples_leaf": 3, "max_iter_shared": 20, "max_iter_task": 10}
    small = {name: np.int32(value) for name, value in options.items()} | {"learning_rate": np.float32(0.125)}
    model = RMTGBRegressor(task_column="task", random_state=0, n_jobs=1, **options, learning_rate=0.125).fit(X, y)
    n_compiled = len(run_rounds.signatures)
    other = RMTGBRegressor(task_column="task", random_state=0, n_jobs=1, **small).fit(X, y)
    assert_same_model(model, other)
    assert len(run_rounds.signatures) == n_compiled


@pytest.mark.parametrize("sharing", ["blocks", "separate"])
def test_the_model_is_the_same_with_tasks_that_have_no_rows_in_a_fold(count_rounds, sharing):
    X, y = make_rows(260, n_tasks=100)
    model = fit_both_ways(count_rounds, RMTGBRegressor, X, y, SHARINGS[sharing], sharing=sharing)
    assert np.isfinite(model._fitted.model.theta).all()


def test_a_partition_block_that_helps_nobody_leaves_no_branches_behind(count_rounds, monkeypatch):
    X, y = make_rows(400)
    ended, block = [], rmtgb._Run.block

    def watched(self, number, one_round):
        block(self, number, one_round)
        if number == PARTITION:
            kinds = [each.has_groups for each in (self.scores, self.validation_scores) if each is not None]
            ended.append((self.n_rounds[PARTITION] > 0, kinds))

    monkeypatch.setattr(rmtgb._Run, "block", watched)
    for tol in (1e9, 1e-7):
        fit_both_ways(count_rounds, RMTGBRegressor, X, y, BLOCKS, sharing="blocks", tol=tol, n_iter_no_change=3)
    assert {has_trees for has_trees, _ in ended} == {True, False}
    assert all(kind == has_trees for has_trees, kinds in ended for kind in kinds)


@pytest.mark.parametrize("is_read_only", [False, True])
def test_the_model_is_the_same_with_validation_rows_of_unseen_tasks(count_rounds, is_read_only):
    X, y = make_rows()
    held = np.arange(len(y)) % 5 == 0
    new = X[held].assign(task=np.where(np.arange(held.sum()) % 7 == 0, 99, X["task"][held]))
    weight = np.linspace(0.5, 2.0, held.sum())
    given = {"X_val": new, "y_val": y[held].copy(), "sample_weight_val": weight}
    for array in (given["y_val"], weight):
        array.flags.writeable = not is_read_only
    models = []
    for is_allowed in (True, False):
        count_rounds(is_allowed)
        model = RMTGBRegressor(task_column="task", sharing="blocks", **QUICK)
        models.append(model.fit(X[~held], y[~held], **given))
    assert_same_model(*models)


def test_a_model_that_is_continued_is_the_same(count_rounds):
    X, y = make_rows()
    models = []
    for is_allowed in (True, False):
        count_rounds(is_allowed)
        model = RMTGBRegressor(task_column="task", sharing="blocks", early_stopping=False, **QUICK, warm_start=True)
        model.fit(X, y)
        model.set_params(max_iter_shared=60, max_iter_partition=50, max_iter_task=40).fit(X, y)
        models.append(model)
    assert_same_model(*models)
    assert models[0].n_iter_ == {"shared": 60, "partition": 50, "task": 40}


@pytest.mark.parametrize("most", [("MAX_ROUNDS", 1), ("MAX_ROUNDS", 7), ("MAX_CELLS", 1), ("MAX_NODES", 2000)])
def test_the_model_is_the_same_however_many_rounds_are_done_at_once(count_rounds, monkeypatch, most):
    X, y = make_rows()
    monkeypatch.setattr(fused_rounds, *most)
    fit_both_ways(count_rounds, RMTGBRegressor, X, y, BLOCKS, sharing="blocks")


def test_rounds_with_too_many_nodes_are_done_one_at_a_time(count_rounds, monkeypatch):
    X, y = make_rows()
    monkeypatch.setattr(fused_rounds, "MAX_NODES", 150)
    fit_both_ways(count_rounds, RMTGBRegressor, X, y, ["shared", "partition"], sharing="blocks")


@pytest.mark.parametrize(
    ("estimator_class", "options"),
    [
        (RMTGBRegressor, {"loss": "absolute_error"}),
        (RMTGBRegressor, {"grow_policy": "leafwise", "max_iter_task": 0}),
        (RMTGBRegressor, {"verbose": 1, "linear_start": False}),
        (RMTGBClassifier, {"loss": "multinomial"}),
    ],
    ids=str,
)
def test_what_is_not_known_is_done_one_at_a_time(count_rounds, estimator_class, options):
    X, y = make_rows(400)
    y = y if estimator_class is RMTGBRegressor else (y > 0).astype(int)
    done = count_rounds(True)
    options = {**QUICK, "sharing": "pooled", "max_iter_shared": 3, "max_iter_task": 3, **options}
    estimator_class(task_column="task", **options).fit(X, y)
    assert not any(done.values())


# --- calls by address -------------------------------------------------------------------------------------------------


@njit(nogil=True)
def _count(address, arguments):
    return count_at(address, arguments)


@njit(nogil=True)
def _run(address, arguments):
    return run_at(address, arguments)


def test_a_kernel_is_called_with_types_that_it_was_asked_for_only():
    five = (types.float64,) * 5
    assert address_of(bounded_value, five, types.float64, is_needed=False) == 0
    for call in (_count, _run):
        with pytest.raises(TypingError, match="No kernel's address has been asked for with the arguments"):
            call(0, (1.0, 2.0, 3, 4.0))
