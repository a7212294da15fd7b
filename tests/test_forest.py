"""The forest: every row walks its own trees, whoever else is predicted with it, and blocks add up."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import naive
from boosting_inputs import run_boosting
from mttab._core.boosting import forest as forest_module
from mttab._core.boosting import rmtgb
from mttab._core.boosting.binning import BinMapper
from mttab._core.boosting.forest import PARTITION, SHARED, TASK, Forest, ForestBuilder, add_round
from mttab._core.boosting.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES
from mttab._core.boosting.scoring import ROW_BLOCK, WALKED_ROWS
from mttab._core.boosting.tree_arrays import allocate_trees

N_TASKS = 4
ROUNDS = (6, 5, 4)
SQUARED = REGRESSION_LOSSES["squared_error"](0.5, 1.0)
MULTINOMIAL = CLASSIFICATION_LOSSES["log_loss"](3)


def raw_rows(n, seed, n_tasks=N_TASKS):  # type: ignore[no-untyped-def]
    """A number, a number with gaps, a category with gaps and unknown levels; and tasks, unseen ones too."""
    rng = np.random.default_rng(seed)
    X = np.vstack([rng.standard_normal((2, n)), rng.integers(-1, 41, n)])
    X[1, rng.random(n) < 0.2] = np.nan
    X[2, rng.random(n) < 0.1] = np.nan
    return X, rng.integers(0, n_tasks + 1, n).astype(np.int32)


@pytest.fixture(scope="module", params=["one output", "an output per tree", "vector leaves"])
def fitted(request):  # type: ignore[no-untyped-def]
    """A small forest of all three blocks, with every kind of split."""
    rng = np.random.default_rng(0)
    n = 400
    X, task = raw_rows(n, 1)
    task = np.sort(task % N_TASKS).astype(np.int32)
    X[2] = np.where(X[2] >= 40, 3, X[2])
    score = X[0] + np.where(task == 2, -2.0, 1.0) * np.sin(2 * X[0]) + np.nan_to_num(X[1]) + np.nan_to_num(X[2] % 3)
    score += np.where(np.isnan(X[1]), 4.0, 0.0) + 0.5 * task + 0.3 * rng.standard_normal(n)
    is_classes = request.param != "one output"
    y = np.searchsorted(np.quantile(score, [0.3, 0.7]), score) + 0.0 if is_classes else score
    model, mapper = run_boosting(
        X,
        task,
        y,
        MULTINOMIAL if is_classes else SQUARED,
        ROUNDS,
        is_categorical=np.array([False, False, True]),
        n_categories=np.array([0, 0, 40]),
        task_is_category=True,
        theta_init=np.array([-1.0, -0.5, 1.0, -2.0]),
        vector_leaves=request.param == "vector leaves",
    )
    return model.forest, mapper


@pytest.mark.parametrize("n_leaves", [15, 64, 65])
def test_looking_at_all_nodes_finds_the_leaf_that_walking_finds(fitted, n_leaves, monkeypatch):
    def scores(forest, X, task):  # type: ignore[no-untyped-def]
        ways = []
        for min_rows, min_rows_per_node in ((1, np.inf), (1, 0), (np.inf, 0)):
            monkeypatch.setattr(forest_module, "MIN_ROWS", min_rows)
            monkeypatch.setattr(forest_module, "MIN_ROWS_PER_NODE", min_rows_per_node)
            ways.append(forest.block_scores(X, task))
        np.testing.assert_array_equal(ways[0], ways[1], err_msg="with codes, and without")
        return ways[1:]

    X, task = raw_rows(700, 5)
    np.testing.assert_array_equal(*scores(fitted[0], X, task))
    y = np.nan_to_num(X[0] * X[1]) + np.nan_to_num(X[2] % 5) + 0.1 * np.random.default_rng(6).standard_normal(700)
    model, _ = run_boosting(
        X,
        np.minimum(task, N_TASKS - 1),
        y,
        SQUARED,
        (3, 2, 1),
        is_categorical=np.array([False, False, True]),
        n_categories=np.array([0, 0, 40]),
        task_is_category=True,
        theta_init=np.array([-1.0, -0.5, 1.0, -2.0]),
        max_leaf_nodes=n_leaves,
        min_samples_leaf=2.0,
    )
    n_nodes = np.diff(np.append(np.sort(model.forest.trees.root), len(model.forest.nodes.feature)))
    assert n_nodes[:3].tolist() == [2 * n_leaves - 1] * 3, "the trees are as large as they may be"
    assert n_nodes[5:].max() > 3, "tasks have trees of their own"
    X[0, ::7] = model.forest.nodes.threshold[model.forest.nodes.feature == 0][0]
    X[1, ::11] = np.nan
    np.testing.assert_array_equal(*scores(model.forest, X, task))


@pytest.mark.parametrize(
    "damage", ["a node that nobody has for a child", "a node that is two children", "another tree"]
)
def test_a_forest_whose_trees_are_no_trees_is_refused(fitted, damage):
    forest, _ = fitted
    forest.check_state()
    nodes = forest.nodes._replace(left=forest.nodes.left.copy(), right=forest.nodes.right.copy())
    at = int(np.flatnonzero(nodes.feature >= 0)[0])
    if damage == "a node that nobody has for a child":
        nodes.left[at] = nodes.left[at] + 1 if nodes.left[at] + 1 != nodes.right[at] else nodes.left[at] + 2
    elif damage == "a node that is two children":
        nodes.left[at] = nodes.right[at]
    else:
        nodes.right[at] = np.sort(forest.trees.root)[1]
    with pytest.raises(ValueError, match="tree"):
        replace(forest, nodes=nodes).check_state()


# --- predicting -------------------------------------------------------------------------------------------------------


def test_the_forest_under_test_has_every_kind_of_split(fitted):
    forest, _ = fitted
    nodes, trees = forest.nodes, forest.trees
    assert set(trees.block) == {SHARED, PARTITION, TASK} and set(trees.group[trees.block == TASK]) == set(
        range(N_TASKS)
    )
    assert {0, 1, 2, 3} <= set(nodes.feature), "both kinds of feature and the task itself"
    assert np.any(np.isinf(nodes.threshold[(nodes.feature == 1)])), "values left, missing ones right"
    split_on_one = nodes.missing_left[nodes.feature == 1]
    assert split_on_one.any() and not split_on_one.all()
    assert nodes.n_levels[nodes.feature == 2].tolist() == [40] * int(np.sum(nodes.feature == 2))
    assert forest.n_rounds == ROUNDS


def test_scores_are_those_of_walking_node_by_node(fitted):
    forest, _ = fitted
    X, task = raw_rows(60, 2)
    np.testing.assert_allclose(forest.score(X, task), naive.forest_score(forest, X, task), rtol=1e-12, atol=1e-14)


@given(npst.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, 3 * ROW_BLOCK - 1)))
def test_any_rows_are_those_rows_of_the_whole(fitted, rows):
    forest, _ = fitted
    X, task = raw_rows(3 * ROW_BLOCK, 3)
    whole = forest.score(X, task)
    part = forest.score(np.ascontiguousarray(X[:, rows]), task[rows])
    np.testing.assert_array_equal(part, whole[rows])


@pytest.mark.parametrize("n", [0, 1, ROW_BLOCK - 1, ROW_BLOCK, ROW_BLOCK + 1, 2 * ROW_BLOCK, 2 * ROW_BLOCK + 1])
def test_numbers_of_rows_around_a_block_lose_none(fitted, n):
    forest, _ = fitted
    X, task = raw_rows(2 * ROW_BLOCK + 1, 4)
    whole = forest.score(X, task)
    np.testing.assert_array_equal(forest.score(np.ascontiguousarray(X[:, :n]), task[:n]), whole[:n])


def test_parallel_prediction_gives_the_same_bits(fitted):
    forest, _ = fitted
    X, task = raw_rows(5 * ROW_BLOCK + 3, 5)
    np.testing.assert_array_equal(forest.block_scores(X, task, 2), forest.block_scores(X, task, 1))


def test_predicting_changes_neither_rows_nor_forest(fitted):
    forest, _ = fitted
    X, task = raw_rows(50, 6)
    arrays = (X, task, *forest.nodes, *forest.trees, forest.base, forest.mixing)
    before = [a.copy() for a in arrays]
    forest.score(X, task)
    list(forest.staged_block_scores(X, task))
    forest.group_score(X, task, 1)
    for now, then in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_task_unseen_at_fit_gets_the_common_blocks_at_the_mean_mixture(fitted):
    forest, _ = fitted
    X, _ = raw_rows(80, 7)
    unseen = np.full(80, N_TASKS, dtype=np.int32)
    blocks = forest.block_scores(X, unseen)
    assert not blocks[TASK].any() and blocks[SHARED].any() and blocks[PARTITION].any()
    groups = [forest.group_score(X, unseen, g) for g in range(2)]
    expected = forest.mixing[N_TASKS, 0] * groups[0] + forest.mixing[N_TASKS, 1] * groups[1]
    np.testing.assert_allclose(blocks[PARTITION], expected, rtol=1e-12, atol=1e-14)


def test_unknown_levels_go_where_missing_ones_go(fitted):
    forest, _ = fitted
    X, task = raw_rows(60, 8)
    gone, unknown, negative = X.copy(), X.copy(), X.copy()
    gone[2], unknown[2], negative[2] = np.nan, 40.0, -1.0
    np.testing.assert_array_equal(forest.score(unknown, task), forest.score(gone, task))
    np.testing.assert_array_equal(forest.score(negative, task), forest.score(gone, task))


def test_group_scores_weighted_by_the_mixture_are_the_partition_block(fitted):
    forest, _ = fitted
    X, task = raw_rows(90, 9)
    share = forest.mixing[task]
    expected = share[:, :1] * forest.group_score(X, task, 0) + share[:, 1:] * forest.group_score(X, task, 1)
    np.testing.assert_allclose(forest.block_scores(X, task)[PARTITION], expected, rtol=1e-12, atol=1e-14)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_the_last_stage_is_the_score_and_blocks_come_one_after_the_other(fitted):
    forest, _ = fitted
    X, task = raw_rows(120, 10)
    stages = list(forest.staged_block_scores(X, task))
    assert len(stages) == sum(ROUNDS)
    np.testing.assert_allclose(stages[-1], forest.block_scores(X, task), rtol=1e-12, atol=1e-14)
    for block, first in ((SHARED, 0), (PARTITION, ROUNDS[0]), (TASK, ROUNDS[0] + ROUNDS[1])):
        for r in range(ROUNDS[block]):
            before = stages[first + r - 1] if first + r else np.zeros_like(stages[0])
            change = stages[first + r] - before
            others = [b for b in (SHARED, PARTITION, TASK) if b != block]
            assert change[block].any() and not change[others].any()


def test_a_stage_is_the_score_of_the_trees_up_to_it(fitted):
    forest, _ = fitted
    X, task = raw_rows(30, 11)
    stages = list(forest.staged_block_scores(X, task))
    trees = forest.trees
    for done in ((3, 0, 0), (6, 2, 0), (6, 5, 3)):
        keep = trees.round < np.array(done)[trees.block]
        part = Forest(forest.nodes, type(trees)(*(c[keep] for c in trees)), forest.base, forest.mixing, done)
        expected = naive.forest_score(part, X, task) - forest.base
        np.testing.assert_allclose(stages[sum(done) - 1].sum(axis=0), expected, rtol=1e-12, atol=1e-13)


# --- building ---------------------------------------------------------------------------------------------------------


def constant_tree(value, n_outputs=1):  # type: ignore[no-untyped-def]
    """One leaf per tree, one tree per entry of ``value``."""
    trees = allocate_trees(len(value), 1, n_outputs, 0)
    for name in ("feature", "left", "right"):
        getattr(trees, name)[:] = -1
    for name in ("left_bin", "right_bin", "missing_left", "gain", "weight"):
        getattr(trees, name)[:] = 0
    trees.value[:, 0] = np.asarray(value, dtype=np.float64)[:, None]
    trees.n_nodes[:] = 1
    return trees


def small_mapper():  # type: ignore[no-untyped-def]
    return BinMapper().fit(np.array([[0.0, 1.0]]), np.zeros(1, bool), np.zeros(1, np.int64), np.ones(2), 0)


def constant_forest(builder, rounds, mixing=((0.75, 0.25), (0.5, 0.5), (0.6, 0.4))):  # type: ignore[no-untyped-def]
    return builder.build(np.array([100.0]), np.array(mixing), rounds, 1)


def builder_of_constants(n_rounds=(2, 2, 2)):  # type: ignore[no-untyped-def]
    """Trees of powers of two, so that every sum tells which of them are in it."""
    builder = ForestBuilder(small_mapper(), 2)
    for r in range(n_rounds[0]):
        builder.append(constant_tree([2.0**r]), SHARED, np.array([0]), r, 0, 1.0)
    for r in range(n_rounds[1]):
        for group in range(2):
            builder.append(constant_tree([2.0 ** (4 + 2 * r + group)]), PARTITION, np.array([group]), r, 0, 1.0)
    for r in range(n_rounds[2]):
        builder.append(constant_tree([2.0 ** (10 + r), 2.0 ** (14 + r)]), TASK, np.arange(2), r, 0, 1.0)
    return builder


ROWS = np.zeros((1, 3)), np.array([0, 1, 2], dtype=np.int32)


def test_trees_land_in_their_block_group_and_task():
    blocks = constant_forest(builder_of_constants(), (2, 2, 2)).block_scores(*ROWS)[:, :, 0]
    np.testing.assert_array_equal(blocks[SHARED], [3.0, 3.0, 3.0])
    first, second = 16.0 + 64.0, 32.0 + 128.0
    np.testing.assert_allclose(blocks[PARTITION], [0.75 * first + 0.25 * second, 0.5 * (first + second),
                                                   0.6 * first + 0.4 * second])  # fmt: skip
    np.testing.assert_array_equal(blocks[TASK], [1024.0 + 2048.0, 16384.0 + 32768.0, 0.0])
    np.testing.assert_array_equal(
        constant_forest(ForestBuilder(small_mapper(), 2), (0, 0, 0)).score(*ROWS), [[100.0]] * 3
    )


@pytest.mark.parametrize(("block", "expected"), [(SHARED, (1, 2, 2)), (PARTITION, (2, 1, 2)), (TASK, (2, 2, 1))])
def test_truncating_forgets_the_later_rounds_of_one_block(block, expected):
    builder = builder_of_constants()
    builder.truncate(block, 1)
    short = constant_forest(builder, expected).block_scores(*ROWS)
    wanted = constant_forest(builder_of_constants(expected), expected).block_scores(*ROWS)
    np.testing.assert_array_equal(short, wanted)


def test_truncating_keeps_the_forest_that_was_started_from():
    first = constant_forest(builder_of_constants(), (2, 2, 2))
    builder = ForestBuilder(small_mapper(), 2)
    builder.append_forest(first)
    builder.append(constant_tree([512.0]), SHARED, np.array([0]), 2, 0, 1.0)
    builder.truncate(SHARED, 2)
    np.testing.assert_array_equal(constant_forest(builder, (2, 2, 2)).block_scores(*ROWS), first.block_scores(*ROWS))


def test_a_forest_goes_on_where_an_earlier_one_ended(fitted):
    forest, mapper = fitted
    X, task = raw_rows(100, 12)
    builder = ForestBuilder(mapper, N_TASKS)
    builder.append_forest(forest)
    grown = constant_tree([0.5], forest.nodes.value.shape[1])
    builder.append(grown, SHARED, np.array([0]), ROUNDS[0], 0, 2.0)
    n_rounds = (ROUNDS[0] + 1, *ROUNDS[1:])
    longer = builder.build(forest.base, forest.mixing, n_rounds, forest.nodes.value.shape[1])
    added = np.zeros(forest.n_outputs)
    added[: forest.nodes.value.shape[1]] = 1.0
    np.testing.assert_allclose(longer.score(X, task), forest.score(X, task) + added, rtol=1e-12, atol=1e-13)
    assert len(list(longer.staged_block_scores(X, task))) == sum(n_rounds)


def test_reordering_groups_reorders_their_scores_and_leaves_the_rest(fitted):
    forest, mapper = fitted
    X, task = raw_rows(100, 13)
    builder = ForestBuilder(mapper, N_TASKS)
    builder.append_forest(forest)
    builder.reorder_groups(np.array([1, 0]))
    n_leaf_outputs = forest.nodes.value.shape[1]
    swapped = builder.build(forest.base, forest.mixing[:, ::-1].copy(), forest.n_rounds, n_leaf_outputs)
    np.testing.assert_array_equal(swapped.group_score(X, task, 0), forest.group_score(X, task, 1))
    np.testing.assert_array_equal(swapped.group_score(X, task, 1), forest.group_score(X, task, 0))
    np.testing.assert_allclose(swapped.block_scores(X, task), forest.block_scores(X, task), rtol=1e-12, atol=1e-14)


def test_the_group_that_is_named_first_in_an_order_becomes_the_first_one():
    builder, order = ForestBuilder(small_mapper(), 2), np.array([2, 0, 1])
    for group in range(3):
        builder.append(constant_tree([2.0**group]), PARTITION, np.array([group]), 0, 0, 1.0)
    # More tasks than groups, and one group that no partition tree has: neither is renumbered.
    builder.append(constant_tree([16.0, 32.0, 64.0, 128.0]), TASK, np.arange(4), 0, 0, 1.0)
    builder.reorder_groups(order)
    forest = constant_forest(builder, (0, 1, 1), np.eye(3)[[0, 1, 2, 0, 0]])
    X, task = np.zeros((1, 4)), np.arange(4, dtype=np.int32)
    for k, group in enumerate(order):
        np.testing.assert_array_equal(forest.group_score(X, task, k), [[2.0**group]] * 4)
    np.testing.assert_array_equal(forest.block_scores(X, task)[TASK, :, 0], [16.0, 32.0, 64.0, 128.0])


def test_a_round_just_stored_adds_to_other_rows_what_the_forest_would():
    builder = ForestBuilder(small_mapper(), 2)
    common = builder.append(constant_tree([2.0]), SHARED, np.array([0]), 0, 0, 0.5)
    per_task = builder.append(constant_tree([8.0, 16.0]), TASK, np.arange(2), 0, 0, 0.5)
    X, task = ROWS
    score = np.zeros((3, 2))
    add_round(common, X, task, 2, score, 1)
    np.testing.assert_array_equal(score, [[1.0, 0.0]] * 3)
    add_round(per_task, X, task, 2, score, 1)
    np.testing.assert_array_equal(score[:, 0], [1.0 + 4.0, 1.0 + 8.0, 1.0])


@pytest.mark.parametrize(("n_leaves", "is_symmetric"), [(8, False), (65, False), (64, True)])
@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_rows", [WALKED_ROWS - 1, 2 * ROW_BLOCK + 1])
def test_every_round_adds_what_walking_its_trees_gives(n_leaves, is_symmetric, n_threads, n_rows, monkeypatch):
    """With sets of levels, gaps, unseen levels and tasks, and trees too large for a mask."""
    stored = []
    append = ForestBuilder.append

    def recorded(self, *args):  # type: ignore[no-untyped-def]
        stored.append(append(self, *args))
        return stored[-1]

    monkeypatch.setattr(ForestBuilder, "append", recorded)
    monkeypatch.setattr(rmtgb, "can_run", lambda *args: False)  # rounds that are done at once are not stored one by one
    X, task = raw_rows(700, 5)
    task = np.sort(np.minimum(task, N_TASKS - 1))
    y = np.nan_to_num(X[0] * X[1]) + np.nan_to_num(X[2] % 5) + 3.0 * (task == 2)
    y += np.random.default_rng(6).standard_normal(700)
    model, _ = run_boosting(
        X, task, y, SQUARED, (3, 2, 2),
        is_categorical=np.array([False, False, True]), n_categories=np.array([0, 0, 40]), task_is_category=True,
        max_leaf_nodes=n_leaves, min_samples_leaf=2.0, is_symmetric=is_symmetric,
    )  # fmt: skip
    X, task = raw_rows(n_rows, 7)
    rows_of_tasks = np.ones((N_TASKS + 1, 1))
    for nodes, trees in stored:
        alone = trees._replace(group=trees.group * (trees.block == TASK))
        forest = Forest(nodes, alone, np.zeros(1), rows_of_tasks, model.forest.n_rounds)
        score = np.zeros((X.shape[1], 1))
        add_round((nodes, trees), X, task, N_TASKS, score, n_threads)
        np.testing.assert_allclose(score, naive.forest_score(forest, X, task), rtol=1e-12, atol=1e-14)
    assert any(np.any((nodes.category_start >= 0) & (nodes.feature == 2)) for nodes, _ in stored)
    assert any(np.any(nodes.feature == 3) for nodes, _ in stored)
    n_largest = max(np.sum(nodes.feature < 0) for nodes, _ in stored[:3])
    assert n_largest == n_leaves or (is_symmetric and n_leaves // 2 < n_largest < n_leaves), "some nodes wait"


@pytest.mark.parametrize("n_leaves", [4, 64])
def test_rows_ask_a_symmetric_tree_few_questions_and_find_the_leaf_that_walking_finds(n_leaves):
    """With nodes that were left whole on a level, and gaps, unseen levels and tasks among the rows."""
    X, task = raw_rows(900, 11)
    task = np.sort(np.minimum(task, N_TASKS - 1))
    y = np.nan_to_num(X[0] * X[1]) + np.nan_to_num(X[2] % 5) + 3.0 * (task == 2)
    model, _ = run_boosting(
        X, task, y, SQUARED, (4, 0, 2),
        is_categorical=np.array([False, False, True]), n_categories=np.array([0, 0, 40]), task_is_category=True,
        max_leaf_nodes=n_leaves, is_symmetric=True,
    )  # fmt: skip
    forest = model.forest
    masks = forest.masks(0, len(forest.trees.root))
    is_shared = forest.trees.block == SHARED
    n_questions = masks.n_cuts[is_shared]
    if n_leaves == 4:
        assert not n_questions.any(), "three nodes, two questions: a table would save nothing"
    else:
        assert np.all((n_questions > 2) & (n_questions <= 6)) and not masks.size[is_shared].any()
    X, task = raw_rows(forest_module.MIN_ROWS + 1, 12)
    np.testing.assert_allclose(forest.score(X, task), naive.forest_score(forest, X, task), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("subsample", [1.0, 0.5])
def test_scores_while_training_are_the_scores_of_the_forest(subsample):
    # Mean losses are recorded on the running scores; the finished forest, on raw features, must give the same.
    rng = np.random.default_rng(3)
    X, task = raw_rows(300, 14)
    task = np.sort(task % N_TASKS).astype(np.int32)
    y = np.sin(3 * X[0]) + rng.standard_normal(300)
    columns = {"is_categorical": np.array([False, False, True]), "n_categories": np.array([0, 0, 41])}
    model, _ = run_boosting(
        X, task, y, SQUARED, ROUNDS, theta_init=np.full(N_TASKS, 0.5), subsample=subsample, **columns
    )
    loss = 0.5 * np.mean((model.forest.score(X, task)[:, 0] - y) ** 2)
    assert model.train_loss[TASK][-1] == pytest.approx(loss, rel=1e-9)
