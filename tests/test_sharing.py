"""How much tasks share: what each way stands for, which one is found, and the fit on all rows that follows."""

import pickle
from threading import Event
from types import SimpleNamespace

import numba
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GroupShuffleSplit, train_test_split

from mttab import RMTGBClassifier, RMTGBRegressor
from mttab._core.boosting.sharing import (
    CLEAR,
    LEAST_CLEAR_ROWS,
    MARGIN,
    STRUCTURES,
    Race,
    Sharing,
    choose_sharing,
    is_line_better,
    is_open,
    pick,
)
from mttab.datasets import make_task_groups

ESTIMATORS = [RMTGBRegressor, RMTGBClassifier]
BLOCKS = ["shared", "partition", "task"]
FEW = {"max_iter_shared": 6, "max_iter_partition": 5, "max_iter_task": 4}
# No validation rows, so that nothing but the rounds below is fitted.
SMALL = FEW | {"task_column": "task", "early_stopping": False, "min_samples_leaf": 5, "random_state": 0}
# With validation rows and all that is "auto", but quick.
QUICK = {"max_iter_shared": 40, "max_iter_partition": 40, "max_iter_task": 40, "learning_rate": 0.2}
AUTO = QUICK | {"task_column": "task", "random_state": 0}


def planted(group_sizes, seed=0, n=100, **options):
    """Bunch of `make_task_groups` with little noise."""
    options = {"noise": 0.1, "noise_unit": "label_sd"} | options
    return make_task_groups(n, group_sizes=group_sizes, random_state=seed, return_bunch=True, **options)


def unrelated(n_tasks=6, n=120, seed=0):
    """Every task depends on a feature of its own."""
    rng = np.random.default_rng(seed)
    x, task = rng.standard_normal((n_tasks * n, n_tasks)), np.repeat(np.arange(n_tasks), n)
    y = 2.0 * x[np.arange(len(task)), task] + 0.1 * rng.standard_normal(len(task))
    return pd.DataFrame(x, columns=[f"x{j}" for j in range(n_tasks)]).assign(task=task), y


def three_groups(estimator_class, n_classes=2, n=60):
    """Tasks in groups of 4, 3 and 2, each group with a feature that only it depends on; and the group of each task."""
    rng = np.random.default_rng(0)
    group = np.repeat([0, 1, 2], [4, 3, 2])
    sizes = np.broadcast_to(n, 9)
    task = rng.permutation(np.repeat(np.arange(9), sizes))
    x = rng.uniform(-1.0, 1.0, (len(task), 4))
    y = 3.0 * x[np.arange(len(task)), group[task]] + np.sin(task + 3.0 * x[:, 3]) + 0.1 * rng.standard_normal(len(task))
    X = pd.DataFrame(x, columns=["a", "b", "c", "d"]).assign(task=task)
    if estimator_class is RMTGBRegressor:
        return X, pd.Series(y), group
    cuts = np.quantile(y, np.arange(1, n_classes) / n_classes)
    return X, pd.Series(np.array(["low", "mid", "top"])[np.digitize(y, cuts)]), group


def predicted_numbers(model, X):
    """What a model predicts, as floats: probabilities for a classifier."""
    return (model.predict_proba if isinstance(model, RMTGBClassifier) else model.predict)(X)


# --- picking one ------------------------------------------------------------------------------------------------------


def gains(mean_in_errors, n=200, seed=0):
    """Gains of n rows whose mean is that many of its standard errors."""
    gain = np.random.default_rng(seed).standard_normal(n)
    gain = (gain - gain.mean()) / gain.std()
    return gain + mean_in_errors / np.sqrt(n)


@pytest.mark.parametrize("other", ["pooled", "groups", "separate"])
def test_another_way_is_taken_only_if_it_is_better_by_more_than_chance(other):
    usual, weight = np.full(200, 5.0), np.ones(200)
    enough = MARGIN[other]
    for errors, expected in ((-9, "category"), (0, "category"), (0.9 * enough, "category"), (1.1 * enough, other)):
        assert pick({other: usual - gains(errors), "category": usual}, weight) == expected


def test_ties_go_to_the_category():
    loss, weight = np.arange(9.0), np.ones(9)
    for order in (["pooled", "category", "separate"], ["separate", "groups", "pooled", "category"]):
        assert pick(dict.fromkeys(order, loss), weight) == "category"


def test_of_several_better_ways_the_best_is_taken():
    usual, weight = np.full(200, 5.0), np.ones(200)
    losses = {"pooled": usual - gains(4), "category": usual, "groups": usual - gains(6), "separate": usual - gains(5)}
    assert pick(losses, weight) == "groups"


def test_rows_without_weight_do_not_count_and_the_unit_of_the_loss_does_not_matter():
    usual, better = np.full(200, 5.0), 5.0 - gains(3)
    assert pick({"pooled": better, "category": usual}, np.ones(200)) == "pooled"
    spoilt = np.append(better, np.full(50, 1e6))
    weight = np.append(np.ones(200), np.zeros(50))
    assert pick({"pooled": spoilt, "category": np.full(250, 5.0)}, weight) == "pooled"
    for unit in (1e-9, 1e9):
        assert pick({"pooled": unit * better, "category": unit * usual}, np.ones(200)) == "pooled"


def test_a_weight_counts_how_often_a_validation_row_is_there():
    usual, better = np.full(50, 5.0), 5.0 - gains(0.9 * MARGIN["pooled"], n=50)
    repeated = pick({"pooled": np.repeat(better, 9), "category": np.repeat(usual, 9)}, np.ones(450))
    assert pick({"pooled": better, "category": usual}, np.full(50, 9.0)) == repeated


def is_open_if(name, has_task_block, ahead):
    """Whether the race is open that a way has won, with "pooled" ahead of "category" by so many standard errors."""
    losses = {"pooled": 5.0 - gains(ahead), "category": np.full(200, 5.0)}
    return is_open(Sharing(name, has_task_block=has_task_block), losses, np.ones(200))


@pytest.mark.parametrize("has_task_block", [False, True])
def test_a_race_is_open_where_pooled_is_ahead_by_no_more_than_chance(has_task_block):
    assert is_open_if("category", has_task_block, 0.01)
    assert is_open_if("category", has_task_block, 0.99 * MARGIN["pooled"])
    assert not is_open_if("category", has_task_block, -0.01)


def test_a_race_is_open_where_pooled_has_won_with_trees_of_single_tasks():
    assert is_open_if("pooled", True, 1.1 * MARGIN["pooled"]) and is_open_if("pooled", True, 9.0)
    assert not is_open_if("pooled", False, 1.1 * MARGIN["pooled"])


@pytest.mark.parametrize("name", ["groups", "separate"])
def test_a_race_that_groups_or_separate_have_won_is_not_open(name):
    assert not is_open_if(name, True, 1.0) and not is_open_if(name, False, 1.0)


class PlannedRace(Race):
    """A race on three folds of 100 rows in which the losses of every way are made up."""

    def __init__(self, behind, line_gains=(0.0, 0.0, 0.0), weight=1.0):
        """``behind`` : name -> standard errors by which a way is behind "category" on each fold; the same of a line."""
        super().__init__(*[None] * 7, named_as_category=False, seed=0)
        self.behind, self.line_gains, self.tried = behind, line_gains, []
        self._folds = [(k, SimpleNamespace(weight=np.full(100, weight))) for k in range(3)]
        self._n_in_first_fold = 100

    def _judge(self, sharing, fold, progress):
        self.tried.append((sharing.name, sharing.has_line, fold[0]))
        losses = np.full(100, 5.0)
        if sharing.name != "category":
            losses += gains(self.behind[sharing.name][fold[0]], n=100, seed=ord(sharing.name[0]))
        if sharing.has_line:
            losses = losses - gains(self.line_gains[fold[0]], n=100, seed=8)
        return losses, losses

    def folds_tried(self, name, has_line=False):
        return sorted(k for way, with_line, k in self.tried if (way, with_line) == (name, has_line))


@pytest.mark.parametrize("weight", [1e-6, 1.0, 1e6])
def test_a_way_that_is_clearly_behind_on_the_first_fold_is_not_tried_on_the_others(weight):
    race = PlannedRace({"pooled": (1.1 * CLEAR, -9.0, -9.0)}, weight=weight)
    assert choose_sharing(race, None, may_separate=False).name == "category"
    assert (race.folds_tried("pooled"), race.folds_tried("category")) == ([0], [0, 1, 2])


def test_few_rows_say_nothing_clear_and_uneven_weights_are_few_rows():
    X, y = make_task_groups(40, group_sizes=(4,), random_state=0)
    counts = []
    for weight in (np.ones(160), np.full(160, 1e6), np.exp(2.0 * np.random.default_rng(0).standard_normal(160))):
        races, decide = [], RMTGBRegressor._decide_sharing

        def decided(self, race, validation, races=races, decide=decide):
            races.append(race)
            return decide(self, race, validation)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RMTGBRegressor, "_decide_sharing", decided)
            RMTGBRegressor(**AUTO, n_averaged=1, refit=False, early_stopping=True).fit(X, y, sample_weight=weight)
        counts.append(races[0]._n_in_first_fold)
    even, scaled, uneven = counts
    assert even == pytest.approx(scaled) and even == round(even) and 30 < even < 70 and uneven < 0.5 * even
    races[0]._n_in_first_fold = LEAST_CLEAR_ROWS - 1
    gain = np.full(len(races[0].weight), 5.0)
    assert not races[0].is_clear(gain)
    races[0]._n_in_first_fold = LEAST_CLEAR_ROWS
    assert races[0].is_clear(gain)


def test_a_way_that_may_be_ahead_is_tried_on_all_folds():
    race = PlannedRace({"pooled": (0.9 * CLEAR, -9.0, -9.0)})
    assert choose_sharing(race, None, may_separate=False).name == "pooled"
    assert race.folds_tried("pooled") == race.folds_tried("category") == [0, 1, 2]


def test_where_the_category_is_clearly_behind_on_the_first_fold_the_best_of_the_others_is_taken():
    race, group = PlannedRace({"pooled": (-9.0,) * 3, "groups": (-8.9,) * 3}), np.array([0, 0, 1])
    assert choose_sharing(race, lambda: (np.ones((3, 3)), group), may_separate=True).name == "pooled"
    assert (race.folds_tried("category"), race.folds_tried("groups")) == ([0], [0, 1, 2])


class WatchedRace(PlannedRace):
    """... that knows how many fits have begun when the tasks are compared, and waits for them with two threads."""

    def __init__(self, n_at_once):
        super().__init__({"pooled": (0.1,) * 3, "groups": (-3.0,) * 3, "separate": (3.0,) * 3})
        self.n_at_once, self.has_begun, self.n_begun = n_at_once, Event(), None

    def _judge(self, sharing, fold, progress):
        losses = super()._judge(sharing, fold, progress)
        self.has_begun.set()
        return losses

    def compare(self):
        if self.n_at_once > 1:
            assert self.has_begun.wait(timeout=60), "nothing is judged while tasks are compared"
        self.n_begun = len(self.tried)
        return np.eye(3), np.array([0, 0, 1])


def test_tasks_are_compared_while_the_ways_that_do_not_depend_on_it_race_and_the_result_is_the_same():
    found = []
    for n_at_once in (1, 2):
        race = WatchedRace(n_at_once)
        found.append(choose_sharing(race, race.compare, may_separate=True))
        assert (race.n_begun == 0) == (n_at_once == 1)
        assert race.folds_tried("separate") == [0] and race.folds_tried("groups") == [0, 1, 2]
    assert found[0].name == found[1].name == "groups"
    for name in ("group", "agreement"):
        np.testing.assert_array_equal(getattr(found[0], name), getattr(found[1], name))


@pytest.mark.parametrize("n_at_once", [1, 2])
def test_what_goes_wrong_while_tasks_are_compared_is_said(n_at_once):
    race = PlannedRace({"pooled": (0.1,) * 3})
    race.n_at_once = n_at_once

    def compare():
        raise MemoryError("too many tasks")

    with pytest.raises(MemoryError, match="too many tasks"):
        choose_sharing(race, compare, may_separate=True)


@pytest.mark.parametrize(
    ("on_each_fold", "n_tried", "is_better"),
    [((1.1, -9, -9), 1, True), ((-1.1, 9, 9), 1, False), ((0.9, -9, -9), 3, False), ((-0.9, 9, 9), 3, True)],
)
def test_a_line_is_tried_on_one_fold_if_that_is_clear_and_else_on_all(on_each_fold, n_tried, is_better):
    race = PlannedRace({}, line_gains=[CLEAR * gain for gain in on_each_fold])
    assert is_line_better(race, Sharing("category")) == is_better
    assert race.folds_tried("category", has_line=True) == [0, 1, 2][:n_tried]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_tasks_of_one_function_are_pooled_or_told_apart_by_category_and_have_no_outlier():
    bunch = planted((20,), shared_share=1.0, n=25, noise=0.5)
    model = RMTGBRegressor(**AUTO).fit(bunch.data, bunch.target)
    assert model.sharing_ in ("pooled", "category")
    assert (model.outlier_score_ < 0.5).all() and not model.task_group_.any()


def test_unrelated_tasks_are_fitted_apart():
    model = RMTGBRegressor(**AUTO).fit(*unrelated())
    assert model.sharing_ == "separate" and model.other_sharing_ is None
    assert (model.outlier_score_ < 0.5).all()


@pytest.mark.parametrize(
    ("estimator_class", "group_sizes"),
    [(RMTGBRegressor, (8, 2)), (RMTGBClassifier, (8, 2)), (RMTGBRegressor, (7, 5, 4, 3, 2))],
)
def test_planted_groups_are_found_and_all_but_the_largest_are_outliers(estimator_class, group_sizes):
    task_type = "binary" if estimator_class is RMTGBClassifier else "regression"
    bunch = planted(group_sizes, n=150, task_type=task_type)
    model = estimator_class(**AUTO).fit(bunch.data, bunch.target)
    assert model.sharing_ == "groups"
    assert adjusted_rand_score(bunch.task_group, model.task_group_) == 1.0
    np.testing.assert_array_equal(model.outlier_score_ > 0.5, bunch.task_group > 0)
    np.testing.assert_array_equal(model.task_group_ > 0, bunch.task_group > 0)


def test_a_table_of_equal_rows_is_fitted():
    X = pd.DataFrame({"x": np.zeros(400), "task": np.arange(400) % 4})
    for seed in range(6):
        assert (RMTGBRegressor(**AUTO | FEW | {"random_state": seed}).fit(X, np.ones(400)).predict(X) == 1.0).all()


def test_few_different_rows_are_fitted_without_a_warning():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.integers(0, 2, 500), "task": np.arange(500) % 4})
    y = rng.integers(0, 2, 500)
    for seed in range(6):
        proba = RMTGBClassifier(**AUTO | FEW | {"random_state": seed}).fit(X, y).predict_proba(X)
        assert np.isfinite(proba).all()


RESTRICTED = {
    "no early stopping": {"early_stopping": False},
    "no shared block": {"max_iter_shared": 0},
    "no partition block": {"max_iter_partition": 0},
    "no task block": {"max_iter_task": 0},
    "task named as a category": {"categorical_features": ["task"]},
    "a start of the user's": {"theta_init": [-1.0] * 4 + [1.0] * 2},
    "a drawn start": {"theta_init": "normal"},
    "paper": RMTGBRegressor.paper_parameters() | {"early_stopping": True},
    "training loss watched": {"early_stopping": True, "validation_fraction": None},
}


@pytest.mark.parametrize("case", RESTRICTED)
def test_auto_is_the_blocks_of_the_paper_where_there_is_nothing_to_choose_by_or_the_user_has_chosen(case):
    bunch = planted((4, 2), n=60)
    assert RMTGBRegressor(**AUTO | FEW).fit(bunch.data, bunch.target).sharing_ in STRUCTURES
    options = AUTO | FEW | RESTRICTED[case]
    model = RMTGBRegressor(**options).fit(bunch.data, bunch.target)
    blocks = RMTGBRegressor(sharing="blocks", **options).fit(bunch.data, bunch.target)
    assert model.sharing_ == blocks.sharing_ == "blocks"
    np.testing.assert_array_equal(model.predict(bunch.data), blocks.predict(bunch.data))


# --- what each way stands for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_pooled_is_a_model_that_does_not_know_the_task(estimator_class):
    X, y, _ = three_groups(estimator_class)
    model = estimator_class(sharing="pooled", **SMALL | {"max_iter_task": 0}).fit(X, y)
    blind = estimator_class(**SMALL | {"task_column": None}).fit(X.drop(columns="task"), y)
    np.testing.assert_allclose(
        predicted_numbers(model, X), predicted_numbers(blind, X.drop(columns="task")), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pooled", {"max_iter_partition": 0}),
        ("category", {"max_iter_partition": 0, "categorical_features": ["task"]}),
        ("separate", {"max_iter_shared": 0, "max_iter_partition": 0}),
    ],
)
def test_a_way_to_share_is_the_blocks_with_some_left_out(estimator_class, name, options):
    X, y, _ = three_groups(estimator_class)
    for more in ({}, {"early_stopping": True, "subsample": 0.7, "max_features": 0.5}):
        model = estimator_class(sharing=name, **SMALL | more).fit(X, y)
        blocks = estimator_class(sharing="blocks", **SMALL | options | more).fit(X, y)
        np.testing.assert_array_equal(predicted_numbers(model, X), predicted_numbers(blocks, X))
        assert model.n_iter_ == blocks.n_iter_


def test_separate_is_a_model_per_task():
    rng = np.random.default_rng(0)
    task = np.repeat(np.arange(4), 150)
    # Every task has every value, and the mean 0, so that bins and base are the same for all.
    X = pd.DataFrame(rng.integers(0, 8, (600, 2)), columns=["a", "b"])
    y = np.sin(X["a"] + task) * X["b"] + 0.1 * rng.standard_normal(600)
    y -= y.groupby(task).transform("mean")
    same = {"max_leaf_nodes": 6, "max_leaf_nodes_task": None, "min_samples_leaf_task": None}
    same |= {"grow_policy": "leafwise", "max_bins": 255}  # as trees of tasks grow, on all bins
    model = RMTGBRegressor(sharing="separate", **SMALL | same).fit(X.assign(task=task), y)
    for t in range(4):
        own = task == t
        alone = RMTGBRegressor(**SMALL | same | {"task_column": None, "max_iter_shared": 4}).fit(X[own], y[own])
        np.testing.assert_allclose(model.predict(X.assign(task=t)), alone.predict(X), rtol=0, atol=1e-9)
    assert np.ptp(model.predict(X.assign(task=0))) > 0.1


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_blocks_that_are_left_out_have_no_rounds_and_the_others_add_up(estimator_class, name, early_stopping):
    X, y, _ = three_groups(estimator_class)
    model = estimator_class(sharing=name, **SMALL | {"early_stopping": early_stopping}).fit(X, y)
    assert model.sharing_ == name
    used = [BLOCKS[b] for b in STRUCTURES[name][0]]
    if early_stopping:
        if model.linear_start_ and "shared" not in used:  # groups may start from one line
            assert model.n_iter_["shared"] == 1
            used.append("shared")
        assert {b for b in BLOCKS if model.n_iter_[b]} <= set(used)
    else:
        assert model.n_iter_ == {b: FEW[f"max_iter_{b}"] if b in used else 0 for b in BLOCKS}
    stages, parts = list(model.staged_predict(X)), model.decompose(X)
    assert len(stages) == sum(model.n_iter_.values()) > 0
    total = parts.shared + parts.partition + parts.task
    if estimator_class is RMTGBRegressor:
        np.testing.assert_allclose(stages[-1], model.predict(X), rtol=0, atol=1e-12)
        np.testing.assert_allclose(total, model.predict(X), rtol=0, atol=1e-9)
    else:
        np.testing.assert_array_equal(stages[-1], model.predict(X))
        np.testing.assert_allclose(total, model.decision_function(X), rtol=0, atol=1e-9)
    for block in BLOCKS:
        assert (np.ptp(parts[block]) > 0) == (model.n_iter_[block] > 0)


@pytest.mark.parametrize("name", STRUCTURES)
def test_only_category_and_groups_split_on_the_task(name):
    X, y, _ = three_groups(RMTGBRegressor)
    y = y + 5.0 * X["task"]
    importances = RMTGBRegressor(sharing=name, **SMALL).fit(X, y).feature_importances_
    assert (importances[X.columns.get_loc("task")] > 0) == (name in ("category", "groups"))


@pytest.mark.parametrize(
    "name",
    [
        "auto",
        "blocks",
        "pooled",
        "category",
        "groups",
        "separate",
    ],
)
def test_with_one_task_every_way_to_share_is_the_same_model(name):
    X, y = unrelated(n_tasks=1, n=250)
    for column in ("task", None):
        table = X if column else X.drop(columns="task")
        model = RMTGBRegressor(sharing=name, **SMALL | {"task_column": column}).fit(table, y)
        plain = RMTGBRegressor(sharing="blocks", **SMALL | {"task_column": column}).fit(table, y)
        np.testing.assert_array_equal(model.predict(table), plain.predict(table))
        assert model.task_group_.tolist() == [0] and model.score(table, y) > 0.2


# --- more than two groups ---------------------------------------------------------------------------------------------


def test_as_many_groups_as_were_planted_are_recovered_and_numbered_from_the_largest():
    bunch = planted((7, 5, 4, 3, 2))
    model = RMTGBRegressor(sharing="groups", n_task_groups=5, **SMALL).fit(bunch.data, bunch.target)
    np.testing.assert_array_equal(model.task_group_, bunch.task_group)
    assert model.theta_.shape == (21, 5)
    weights = softmax(model.theta_, axis=1)
    np.testing.assert_allclose(model.outlier_score_, 1.0 - weights[:, 0], rtol=1e-12)
    np.testing.assert_array_equal(weights.argmax(axis=1), model.task_group_)


@pytest.mark.parametrize("sharing", ["groups", "blocks"])
@pytest.mark.parametrize("n_groups", [2, 3, 6])
def test_the_number_of_groups_is_the_users_to_set(sharing, n_groups):
    X, y, _ = three_groups(RMTGBRegressor)
    model = RMTGBRegressor(sharing=sharing, n_task_groups=n_groups, **SMALL).fit(X, y)
    assert model.theta_.shape == ((9,) if n_groups == 2 else (9, n_groups))
    if sharing == "groups":
        sizes = np.bincount(model.task_group_, minlength=n_groups)
        assert sizes.min() > 0 and sizes[0] == sizes.max()


GROUPED = [
    pytest.param(RMTGBRegressor, {}, id="regression"),
    pytest.param(RMTGBRegressor, {"target_scaling": "task"}, id="target_scaling"),
    pytest.param(RMTGBRegressor, {"loss": "absolute_error"}, id="absolute_error"),
    pytest.param(RMTGBClassifier, {"n_classes": 2}, id="two classes"),
    pytest.param(RMTGBClassifier, {"n_classes": 3}, id="three classes"),
    pytest.param(RMTGBClassifier, {"n_classes": 3, "multi_strategy": "multi_output_tree"}, id="vector leaves"),
]


@pytest.mark.parametrize("sharing", ["groups", "blocks"])
@pytest.mark.parametrize(("estimator_class", "options"), GROUPED)
def test_three_groups_work_with_all_that_a_fitted_model_can_do(estimator_class, options, sharing):
    options = dict(options)
    X, y, group = three_groups(estimator_class, n_classes=options.pop("n_classes", 2))
    if options.get("target_scaling"):
        y = y * 10.0 ** (X["task"] % 3) + 7.0 * X["task"]
    model = estimator_class(sharing=sharing, n_task_groups=3, warm_start=True, **SMALL | options).fit(X, y)
    np.testing.assert_array_equal(model.task_group_, group)
    parts, out = model.decompose(X), predicted_numbers(model, X)
    total = parts.shared + parts.partition + parts.task
    expected = model.predict(X) if estimator_class is RMTGBRegressor else model.decision_function(X)
    if total.ndim == 2:
        total, expected = softmax(total, axis=1), out
    np.testing.assert_allclose(total, expected, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(predicted_numbers(pickle.loads(pickle.dumps(model)), X), out)
    assert np.isfinite(predicted_numbers(model, X.assign(task=99))).all()
    model.set_params(max_iter_partition=12).fit(X, y)
    assert model.n_iter_["partition"] == 12 and model.theta_.shape == (9, 3)
    assert np.abs(predicted_numbers(model, X) - out).max() > 1e-3


def test_an_unseen_task_gets_the_mean_of_the_groups_over_the_rows():
    X, y, _ = three_groups(RMTGBRegressor, n=[40, 50, 60, 70, 40, 50, 60, 30, 90])
    model = RMTGBRegressor(sharing="blocks", n_task_groups=3, **SMALL).fit(X, y)
    by_task = [model.decompose(X.assign(task=t)).partition for t in range(9)]
    expected = np.average(by_task, axis=0, weights=np.bincount(X["task"]))
    unseen = model.decompose(X.assign(task=99))
    np.testing.assert_allclose(unseen.partition, expected, rtol=0, atol=1e-9)
    assert not unseen.task.any() and np.ptp(expected) > 0.01


@pytest.mark.parametrize(
    "n_groups",
    [2, 3],
)
def test_partition_rounds_added_by_a_warm_start_equal_those_of_one_fit(n_groups):
    X, y, _ = three_groups(RMTGBRegressor)
    options = SMALL | {"sharing": "groups", "n_task_groups": n_groups, "max_iter_task": 0}
    warm = RMTGBRegressor(warm_start=True, **options).fit(X, y).set_params(max_iter_partition=15).fit(X, y)
    at_once = RMTGBRegressor(**options | {"max_iter_partition": 15}).fit(X, y)
    np.testing.assert_allclose(warm.theta_, at_once.theta_, rtol=0, atol=1e-9)
    np.testing.assert_allclose(warm.predict(X), at_once.predict(X), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sharing", ["groups", "blocks"])
def test_predictions_by_groups_are_monotonic_for_every_task(sharing):
    X, y, _ = three_groups(RMTGBRegressor)
    grid = np.linspace(-1.2, 1.2, 100)
    rows = X.drop(columns="task").iloc[:10]
    lines = rows.loc[np.repeat(rows.index, 100)].reset_index(drop=True).assign(d=np.tile(grid, 10))

    def largest_fall(model):
        steps = [np.diff(model.predict(lines.assign(task=t)).reshape(10, 100), axis=1) for t in (*range(9), 99)]
        return -np.min(steps)

    options = SMALL | {"sharing": sharing, "n_task_groups": 3}
    assert largest_fall(RMTGBRegressor(**options).fit(X, y)) > 0.01
    assert largest_fall(RMTGBRegressor(monotonic_cst={"d": 1}, **options).fit(X, y)) <= 1e-12


def test_more_tasks_than_can_be_compared_are_refused_where_groups_are_asked_for_and_else_are_not():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.standard_normal(903), "task": np.repeat(np.arange(301), 3)})
    y = X["a"] + 0.1 * rng.standard_normal(903)
    for options in ({"sharing": "groups"}, {"sharing": "blocks", "n_task_groups": 3}):
        with pytest.raises(ValueError, match=r"sharing='(groups|blocks)'.* at most 300 tasks, but there are 301; use"):
            RMTGBRegressor(**AUTO | FEW | options).fit(X, y)
    model = RMTGBRegressor(**AUTO | FEW).fit(X, y)
    assert model.sharing_ in ("pooled", "category", "separate") and model.n_tasks_ == 301


# --- the fit on all rows ----------------------------------------------------------------------------------------------

ONE = AUTO | {"n_averaged": 1}


@pytest.mark.parametrize("sharing", ["blocks", "pooled", "category", "separate"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_a_refit_is_a_fit_on_all_rows_with_the_rounds_that_were_found(estimator_class, sharing):
    X, y, _ = three_groups(estimator_class)
    options = ONE | {"sharing": sharing, "subsample": 0.7, "max_features": 0.5, "max_bins": 100}
    model = estimator_class(**options).fit(X, y)
    first = estimator_class(refit=False, **options).fit(X, y)
    found = {f"max_iter_{block}": n for block, n in model.n_iter_.items()} | {"linear_start": model.linear_start_}
    again = estimator_class(**options | found | {"early_stopping": False}).fit(X, y)
    np.testing.assert_array_equal(predicted_numbers(model, X), predicted_numbers(again, X))
    np.testing.assert_array_equal(model.train_score_, again.train_score_)
    np.testing.assert_array_equal(model.theta_, again.theta_)
    assert model.n_iter_ == first.n_iter_ and model.sharing_ == first.sharing_
    np.testing.assert_array_equal(model.validation_score_, first.validation_score_)
    assert np.abs(predicted_numbers(model, X) - predicted_numbers(first, X)).max() > 1e-3


def test_a_refit_keeps_the_sharing_and_the_groups_that_were_found():
    bunch = planted((8, 2), n=150)
    model = RMTGBRegressor(**ONE).fit(bunch.data, bunch.target)
    first = RMTGBRegressor(refit=False, **ONE).fit(bunch.data, bunch.target)
    assert model.sharing_ == first.sharing_ == "groups"
    np.testing.assert_array_equal(model.task_group_, first.task_group_)
    assert model.train_score_[-1] == pytest.approx(-0.5 * np.mean((bunch.target - model.predict(bunch.data)) ** 2))
    np.testing.assert_array_equal(model.validation_score_, first.validation_score_)


@pytest.mark.parametrize("way", ["X_val", "warm_start"])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_there_is_no_refit_with_rows_of_the_users_or_a_warm_start(estimator_class, way):
    X, y, _ = three_groups(estimator_class)
    held = {"X_val": X[::5], "y_val": y[::5]} if way == "X_val" else {}
    options = ONE | FEW | {"warm_start": way == "warm_start"}
    models = [estimator_class(refit=refit, **options).fit(X, y, **held) for refit in (True, False)]
    np.testing.assert_array_equal(predicted_numbers(models[0], X), predicted_numbers(models[1], X))
    np.testing.assert_array_equal(models[0].train_score_, models[1].train_score_)


@pytest.mark.parametrize("sharing", ["auto", "blocks", "groups", "category"])
def test_whole_tasks_that_were_held_out_are_known_after_the_refit(sharing):
    X, y, _ = three_groups(RMTGBRegressor)
    splitter = GroupShuffleSplit(1, test_size=2, random_state=0)
    held = sorted(set(X["task"].iloc[next(splitter.split(X, y, X["task"]))[1]]))
    y = y + np.where(X["task"].isin(held), 10.0, 0.0)
    options = ONE | {"sharing": sharing, "validation": splitter, "unseen_task": "error", "n_iter_no_change": 40}
    model = RMTGBRegressor(**options).fit(X, y)
    assert model.tasks_.tolist() == list(range(9)) and len(model.theta_) == len(model.task_group_) == 9
    first = RMTGBRegressor(refit=False, **options).fit(X, y)
    assert sorted({*range(9)} - set(first.tasks_)) == held
    assert model.n_iter_ == first.n_iter_ and model.sharing_ == first.sharing_
    if model.n_iter_["task"] >= 10:
        is_held = X["task"].isin(held)
        assert np.abs(model.predict(X[is_held]) - y[is_held]).mean() < 5.0


def test_starts_for_all_tasks_may_be_given_where_whole_tasks_are_held_out():
    X, y, _ = three_groups(RMTGBRegressor)
    options = ONE | FEW | {"validation": GroupShuffleSplit(1, test_size=2, random_state=0)}
    model = RMTGBRegressor(theta_init=dict.fromkeys(range(9), -1.0), **options).fit(X, y)
    assert model.n_tasks_ == 9


# --- what must not change what is found -------------------------------------------------------------------------------


def default_table(estimator_class, group_sizes=(5, 3)):
    """Enough rows for early stopping and a choice of sharing; two thirds to train on."""
    task_type = "binary" if estimator_class is RMTGBClassifier else "regression"
    bunch = planted(group_sizes, n=90, task_type=task_type)
    X = bunch.data.assign(x1=bunch.data["x1"].mask(bunch.data["x1"] > 0.9))
    return train_test_split(X, bunch.target, test_size=1 / 3, random_state=0)


def assert_same(model, other, X, X_other=None, exact=False):
    tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-8, "atol": 1e-8}
    assert other.sharing_ == model.sharing_ and other.n_iter_ == model.n_iter_
    np.testing.assert_allclose(
        predicted_numbers(other, X if X_other is None else X_other), predicted_numbers(model, X), **tolerance
    )


@pytest.mark.parametrize("names", [lambda t: 9 - t, lambda t: np.array(list("fbhadgce"), dtype=object)[t]])
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_with_default_options_the_names_of_the_tasks_change_nothing(estimator_class, names):
    X, _, y, _ = default_table(estimator_class)
    renamed = X.assign(task=names(X["task"].to_numpy()))
    model, other = estimator_class(**AUTO).fit(X, y), estimator_class(**AUTO).fit(renamed, y)
    assert_same(model, other, X, renamed)
    score = dict(zip(other.tasks_, other.outlier_score_, strict=True))
    in_order = [score[names(np.array([t]))[0]] for t in model.tasks_]
    np.testing.assert_allclose(in_order, model.outlier_score_, rtol=1e-8, atol=1e-8)


def test_the_names_of_the_tasks_do_not_decide_between_two_groups_of_one_size():
    X, _, y, _ = default_table(RMTGBRegressor, (4, 4))
    renamed = X.assign(task=7 - X["task"])
    options = AUTO | {"sharing": "groups"}
    model, other = RMTGBRegressor(**options).fit(X, y), RMTGBRegressor(**options).fit(renamed, y)
    np.testing.assert_allclose(other.outlier_score_[::-1], model.outlier_score_, rtol=1e-8, atol=1e-8)
    assert_same(model, other, X, renamed)


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_with_default_options_the_order_of_rows_changes_nothing(estimator_class):
    X, X_val, y, y_val = default_table(estimator_class)
    held = {"X_val": X_val, "y_val": y_val}
    model = estimator_class(**AUTO).fit(X, y, **held)
    assert model.sharing_ in STRUCTURES
    order = np.random.default_rng(0).permutation(len(X))
    assert_same(model, estimator_class(**AUTO).fit(X.iloc[order], y.iloc[order], **held), X)


@pytest.mark.parametrize(
    ("estimator_class", "sharing"),
    [
        *((estimator_class, name) for estimator_class in ESTIMATORS for name in ("blocks", "groups", "category")),
        (RMTGBRegressor, "auto"),
    ],
)
def test_with_default_options_a_weight_counts_how_often_a_row_is_there(estimator_class, sharing):
    X, X_val, y, y_val = default_table(estimator_class)
    held, options = {"X_val": X_val, "y_val": y_val}, AUTO | {"sharing": sharing}
    model = estimator_class(**options).fit(X, y, **held)
    weight = np.random.default_rng(1).integers(0, 4, len(X))
    weighted = estimator_class(**options).fit(X, y, sample_weight=weight, **held)
    rows = np.repeat(np.arange(len(X)), weight)
    assert_same(weighted, estimator_class(**options).fit(X.iloc[rows], y.iloc[rows], **held), X)
    assert np.abs(predicted_numbers(weighted, X) - predicted_numbers(model, X)).max() > 1e-3


@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_with_default_options_the_same_seed_gives_the_same_model_and_copies_keep_it(estimator_class):
    X, _, y, _ = default_table(estimator_class)
    model = estimator_class(**AUTO).fit(X, y)
    assert_same(model, clone(model).fit(X, y), X, exact=True)
    copy = pickle.loads(pickle.dumps(model))
    assert_same(model, copy, X, exact=True)
    for name in ("theta_", "task_group_", "outlier_score_", "validation_score_"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(model, name))
    other = clone(model).set_params(random_state=1).fit(X, y)
    assert np.abs(predicted_numbers(other, X) - predicted_numbers(model, X)).max() > 1e-3


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="numba has one thread on this machine")
@pytest.mark.parametrize("estimator_class", ESTIMATORS)
def test_with_default_options_the_number_of_threads_changes_no_bit(estimator_class, monkeypatch):
    counts, tell = [], numba.set_num_threads
    monkeypatch.setattr(numba, "set_num_threads", lambda n: (counts.append(n), tell(n)))
    task_type = "binary" if estimator_class is RMTGBClassifier else "regression"
    # More rows than the choice of sharing looks at, and enough for the parallel kernels.
    X, y = make_task_groups(2500, n_features=12, group_sizes=(8, 2), task_type=task_type, noise=0.5, random_state=0)
    options = AUTO | {"max_iter_shared": 3, "max_iter_partition": 3, "max_iter_task": 2}
    model = estimator_class(n_jobs=1, **options).fit(X, y)
    assert max(counts, default=1) == 1
    other = estimator_class(n_jobs=2, **options).fit(X, y)
    assert max(counts) == 2
    assert_same(model, other, X, exact=True)
    np.testing.assert_array_equal(other.theta_, model.theta_)


# --- weights of any scale, few different rows, contradictions ---------------------------------------------------------


def test_the_scale_of_the_weights_does_not_decide_what_is_shared():
    X, _, y, _ = default_table(RMTGBRegressor, (4, 2))
    model = RMTGBRegressor(**AUTO).fit(X, y)
    assert model.sharing_ == "groups"
    for scale in (8.0, 1024.0):  # leaves may be smaller then, and what is chance is judged by the sum of the weights
        other = RMTGBRegressor(**AUTO).fit(X, y, sample_weight=np.full(len(y), scale))
        assert other.sharing_ == "groups"
        np.testing.assert_array_equal(other.task_group_, model.task_group_)


def test_tables_of_few_different_rows_use_all_rows_in_every_round():
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"a": rng.integers(0, 2, 600), "b": rng.integers(0, 2, 600), "task": np.arange(600) % 3})
    y = (rng.random(600) < 0.2 + 0.5 * X["a"]).astype(int)
    default, every = (RMTGBClassifier(**AUTO, **options).fit(X, y) for options in ({}, {"subsample": 1.0}))
    assert_same(default, every, X)
    assert not np.array_equal(
        RMTGBClassifier(**AUTO, subsample=0.8).fit(X, y).predict_proba(X), default.predict_proba(X)
    )


@pytest.mark.parametrize(
    ("sharing", "left_out"),
    [
        ("pooled", ["shared", "task"]),
        ("category", ["shared", "task"]),
        ("groups", ["partition", "task"]),
        ("separate", ["task"]),
    ],
)
def test_a_sharing_whose_blocks_are_left_out_is_refused(sharing, left_out):
    X, _, y, _ = default_table(RMTGBRegressor, (2, 2))
    options = {"sharing": sharing} | {f"max_iter_{block}": 0 for block in left_out}
    with pytest.raises(ValueError, match=rf"sharing='{sharing}' with max_iter_{left_out[0]}=0.* leaves no round"):
        RMTGBRegressor(**AUTO | options).fit(X, y)


def test_separate_tasks_are_refused_where_whole_tasks_validate():
    X, y, _ = three_groups(RMTGBRegressor)
    options = AUTO | {"sharing": "separate", "validation": GroupShuffleSplit(1, test_size=2, random_state=0)}
    with pytest.raises(ValueError, match=r"sharing='separate' .* hold out rows of every task"):
        RMTGBRegressor(**options).fit(X, y)
