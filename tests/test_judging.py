"""What the race relies on: losses without a forest are those of the forest, and a tree's room may be used again."""

import numpy as np
import pytest

from boosting_inputs import make_grower, split_options, training_rows
from mttab._core.boosting.binning import BinMapper
from mttab._core.boosting.forest import PARTITION, SHARED, TASK, ForestBuilder
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES
from mttab._core.boosting.options import BlockOptions, BoostingOptions
from mttab._core.boosting.rmtgb import boost, judge
from mttab._core.boosting.rows import ValidationRows
from mttab._core.progress import Progress

N_TASKS = 4
LOSSES = {name: REGRESSION_LOSSES[name](0.3, 0.7) for name in ("squared_error", "absolute_error")}
LOSSES |= {f"{n} classes": CLASSIFICATION_LOSSES["log_loss"](n) for n in (2, 3)}


def table(loss, n, seed):
    """Numbers with gaps and a category, tasks of which the last is not among the training rows, and labels."""
    rng = np.random.default_rng(seed)
    X = np.vstack([rng.normal(size=(2, n)), rng.integers(0, 5, n)]).astype(float)
    X[0, ::7] = np.nan
    task = np.sort(rng.integers(0, N_TASKS, n)).astype(np.int32)
    y = np.nan_to_num(X[0]) * (1.0 - task) + X[1] + (X[2] % 2) + 0.3 * rng.normal(size=n)
    if loss.n_outputs > 1:
        y = np.digitize(y, [-0.5, 0.8]).astype(float)
    elif not loss.is_location:
        y = (y > 0.3).astype(float)
    return X, task, y


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("has_line", [False, True], ids=["trees", "line"])
@pytest.mark.parametrize("patience", [None, 2])
def test_judged_losses_are_those_of_the_forest_that_boost_fits(loss, has_line, patience):
    X, task, y = table(loss, 400, 0)
    mapper = BinMapper().fit(X, np.array([False, False, True]), np.array([0, 0, 5]), np.ones(400), 0)
    is_known = task < N_TASKS - 1
    rows = training_rows(mapper.transform(X[:, is_known]), task[is_known], y[is_known])
    X_new, task_new, y_new = table(loss, 150, 1)
    validation = ValidationRows(X_new, task_new, y_new, np.ones(150))
    layout = mapper.layout(np.zeros(3, dtype=np.int64), rows.n_tasks)
    blocks = tuple(BlockOptions(n, 0.3) for n in (6, 5, 6))
    options = BoostingOptions(blocks=blocks, has_line=has_line, patience=patience, subsample=0.8)

    def run(function, **more):
        grower = make_grower(rows, layout, split_options(loss.constant_hessian, min_samples_leaf=5.0), 16)
        builder, base = ForestBuilder(mapper, rows.n_tasks), loss.base_score(rows.y, rows.weight)
        rng = np.random.default_rng(3)
        return function(rows, validation, loss, grower, builder, options, base, rng, **more)

    model = run(boost)
    with_tasks, without = run(judge, progress=Progress())
    assert patience is not None or model.forest.n_rounds == (6, 5, 6)
    parts = model.forest.block_scores(X_new, task_new)
    for found, blocks_in in ((with_tasks, [SHARED, PARTITION, TASK]), (without, [SHARED, PARTITION])):
        score = model.forest.base + parts[blocks_in].sum(axis=0)
        np.testing.assert_allclose(found, loss.values(y_new, score, np.empty(150)), rtol=1e-11, atol=1e-13)
    assert not np.allclose(with_tasks, without)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_a_tree_that_is_stored_does_not_depend_on_the_trees_grown_before_it(is_symmetric):
    loss = LOSSES["squared_error"]
    X, task, y = table(loss, 400, 0)
    mapper = BinMapper().fit(X, np.array([False, False, True]), np.array([0, 0, 5]), np.ones(400), 0)
    rows = training_rows(mapper.transform(X), task, y)
    layout = mapper.layout(np.zeros(3, dtype=np.int64), rows.n_tasks)
    rng = np.random.default_rng(1)
    # A tree on the category, one on numbers, one with few splits of few rows, and one on the task.
    targets = [y - 3.0 * (X[2] % 2), y, np.where(rng.random(400) < 0.01, 5.0, 0.0), 2.0 * (task == 1) + y]
    samples = [rows.all_rows(), rows.content_sample(0.5, 1), rows.content_sample(0.05, 2), rows.all_rows()]
    hessian = np.ones((1, 1))

    def stored(growers):
        builder = ForestBuilder(mapper, rows.n_tasks)
        for r, (grower, target, sample) in enumerate(zip(growers, targets, samples, strict=True)):
            grown = grower.grow_shared(-target[None], hessian, rows.weight, sample, 0)
            builder.append(grown.trees, SHARED, np.array([0]), r, 0, 0.1)
        return builder.build(np.zeros(1), np.ones((rows.n_tasks + 1, 2)), (len(targets), 0, 0), 1)

    def new():
        return make_grower(rows, layout, split_options(min_samples_leaf=2.0), 16, is_symmetric=is_symmetric)

    one = new()
    again, apart = stored([one] * len(targets)), stored([new() for _ in targets])
    for found, expected in ((again.nodes, apart.nodes), (again.trees, apart.trees)):
        for name, values in found._asdict().items():
            np.testing.assert_array_equal(values, getattr(expected, name), err_msg=name)
    sizes = np.diff(np.append(np.sort(again.trees.root), len(again.nodes.feature)))
    assert len(set(sizes)) > 1 and {2, 3} <= set(again.nodes.feature), "trees differ, and split on both kinds of sets"
