"""Inputs in the layout that the boosting core wants, so that every test compiles the same kernels as the package."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mttab._core.boosting.binning import CATEGORY, TASK_ID, BinLayout, BinMapper, pack_words, unpack_words
from mttab._core.boosting.forest import ForestBuilder
from mttab._core.boosting.growing import Grower
from mttab._core.boosting.losses import Loss
from mttab._core.boosting.node_search import fill_histogram
from mttab._core.boosting.options import BlockOptions, BoostingOptions
from mttab._core.boosting.rmtgb import BoostedModel, boost
from mttab._core.boosting.rows import TrainingRows
from mttab._core.boosting.small_nodes import SMALL_NODE
from mttab._core.boosting.splitting import MIN_HESSIAN, SplitOptions
from mttab._core.boosting.tree import GrowthOptions, Scratch
from naive import Problem

NO_LIMIT = 2**31


def training_rows(codes, task, y=None, weight=None, n_tasks=None):  # type: ignore[no-untyped-def]
    """`TrainingRows` of binned features (n_features, n_rows), sorted by task."""
    task = np.asarray(task, dtype=np.int32)
    order = np.argsort(task, kind="stable")
    n_tasks = int(task.max()) + 1 if n_tasks is None else n_tasks
    return TrainingRows(
        words=pack_words(np.asarray(codes, dtype=np.uint8)[:, order]),
        n_features=len(codes),
        task=task[order],
        task_start=np.searchsorted(task[order], np.arange(n_tasks + 1)).astype(np.int64),
        y=np.zeros(len(task)) if y is None else np.asarray(y, dtype=np.float64)[order],
        weight=np.ones(len(task)) if weight is None else np.asarray(weight, dtype=np.float64)[order],
        position=order,
    )


def codes_of(rows):  # type: ignore[no-untyped-def]
    """Bins (n_features, n_rows) of `TrainingRows`."""
    return unpack_words(rows.words, rows.n_features)


def bin_layout(n_bins, kinds=None, monotonic=None):  # type: ignore[no-untyped-def]
    """`BinLayout` of features with so many value bins each; ``kinds``: 0 for numbers, `CATEGORY` or `TASK_ID`."""
    n_features = len(n_bins)
    codes = np.concatenate(
        [np.empty(0), *(np.arange(n + 1.0) for n in n_bins)]
    )  # every bin holds one value, its own number
    return BinLayout(
        np.concatenate([[0], np.cumsum(np.asarray(n_bins) + 1)]).astype(np.int64),
        np.array([0] * n_features if kinds is None else kinds).astype(np.uint8),
        np.array([0] * n_features if monotonic is None else monotonic).astype(np.int8),
        codes,
        codes,
        codes + 0.5,
    )


def split_options(constant_hessian=True, **changes):  # type: ignore[no-untyped-def]
    options = SplitOptions(
        min_samples_leaf=1.0,
        min_hessian=MIN_HESSIAN,
        l2=0.0,
        categorical_prior=10.0,
        categorical_min_rows=1.0,
        constant_hessian=constant_hessian,
    )
    return options._replace(**changes)


def make_grower(  # type: ignore[no-untyped-def]
    rows,
    layout,
    options,
    max_leaf_nodes=31,
    max_depth=NO_LIMIT,
    n_features_tried=1000,
    n_threads=1,
    is_symmetric=False,
    has_local_bins=False,
):
    """`Grower` whose shared and task trees obey the same rules."""
    growth = GrowthOptions(max_leaf_nodes, max_depth, n_features_tried)
    return Grower(rows, layout, growth, growth, options, options, n_threads, is_symmetric, has_local_bins)


def make_scratch(statistics=None, gathered=None, n_threads=1):  # type: ignore[no-untyped-def]
    """`Scratch` for kernels that look at one node, whose derivatives have been gathered as floats or packed."""
    none = np.empty(0, dtype=np.int64)
    statistics = np.empty((0, 2)) if statistics is None else statistics
    gathered = none if gathered is None else gathered
    sums, buffer, pool = np.full((n_threads, 3, 1024), -1), np.empty(0, dtype=np.uint32), np.empty((0, 0, 2))
    return Scratch(statistics, none, gathered, sums, buffer, buffer, pool)


def float_histogram(rows, layout, node, start, stop, statistics, fill=fill_histogram, n_threads=1):  # type: ignore[no-untyped-def]
    """Histogram of ``node[start:stop]`` from its gathered ``statistics``."""
    out = np.full((layout.offset[-1], statistics.shape[1]), np.nan)
    place = rows.words, rows.task.view(np.uint32), layout, node, np.int64(start), np.int64(stop)
    fill(*place, None, make_scratch(statistics, n_threads=n_threads), np.int64(n_threads), out)
    return out


def run_boosting(
    X: np.ndarray,
    task: np.ndarray,
    y: np.ndarray,
    loss: Loss,
    rounds: tuple[int, int, int],
    *,
    base: np.ndarray | None = None,
    mapper: BinMapper | None = None,
    weight: np.ndarray | None = None,
    is_categorical: np.ndarray | None = None,
    n_categories: np.ndarray | None = None,
    task_is_category: bool = False,
    max_leaf_nodes: int = 8,
    min_samples_leaf: float = 5.0,
    is_symmetric: bool = False,
    seed: int = 0,
    **options: object,
) -> tuple[BoostedModel, BinMapper]:
    """Fit a model on raw features (n_features, n_rows) at the level of the core, early stopping off."""
    weight = np.ones(len(y)) if weight is None else weight
    if mapper is None:
        nothing = np.zeros(len(X), dtype=np.int64)
        flags = nothing.astype(bool) if is_categorical is None else is_categorical
        mapper = BinMapper().fit(X, flags, nothing if n_categories is None else n_categories, weight, 0)
    rows = training_rows(mapper.transform(X), task, y, weight)
    layout = mapper.layout(np.zeros(len(X), dtype=np.int64), rows.n_tasks if task_is_category else 0)
    split = split_options(loss.constant_hessian, min_samples_leaf=min_samples_leaf)
    model = boost(
        rows,
        None,
        loss,
        make_grower(rows, layout, split, max_leaf_nodes, is_symmetric=is_symmetric),
        ForestBuilder(mapper, rows.n_tasks),
        BoostingOptions(blocks=tuple(BlockOptions(n, 0.1) for n in rounds), **options),  # type: ignore[arg-type]
        loss.base_score(rows.y, rows.weight) if base is None else base,
        np.random.default_rng(seed),
    )
    return model, mapper


# --- random problems --------------------------------------------------------------------------------------------------


@st.composite
def tree_problems(draw, max_rows: int = 24):  # type: ignore[no-untyped-def]
    """A `Problem` whose last feature is the task id, and the task of each row.

    Derivatives are small multiples of one power of two, also without the weight in them, which is such a power itself,
    so that every sum is exact: kernel and twin then have to agree in every tie. Codes hold ties, missing values and
    constant columns. Some problems have more rows than `SMALL_NODE`, copies of a few with gradients of their own.
    """
    n = draw(st.integers(1, max_rows))
    n_features = draw(st.integers(0, 3))
    n_bins = draw(st.lists(st.sampled_from([1, 2, 3, 6, 255]), min_size=n_features, max_size=n_features))
    columns = [
        draw(npst.arrays(np.uint8, n, elements=st.one_of(st.integers(0, min(n_missing, 6)), st.just(n_missing))))
        for n_missing in n_bins
    ]
    n_tasks = draw(st.sampled_from([1, 2, 5, 40, 300]))
    task = np.sort(draw(npst.arrays(np.int32, n, elements=st.integers(0, n_tasks - 1))))
    n_outputs = draw(st.sampled_from([1, 1, 3]))
    scale = 2.0 ** draw(st.sampled_from([0, 0, -240, 240]))
    gradient = scale * draw(npst.arrays(np.float64, (n_outputs, n), elements=st.integers(-8, 8)))
    weight = draw(npst.arrays(np.float64, n, elements=st.sampled_from([1.0, 1.0, 0.25, 0.5, 2.0, 4.0])))
    is_constant = draw(st.booleans())
    if is_constant:
        hessian = np.tile(weight, (n_outputs, 1))
    else:
        hessian = draw(npst.arrays(np.float64, (n_outputs, n), elements=st.sampled_from([1.0, 0.5, 0.25, 2.0, 0.0])))
    kinds = [*draw(st.lists(st.sampled_from([0, CATEGORY]), min_size=n_features, max_size=n_features)), TASK_ID]
    signs = st.sampled_from([0, 0, -1, 1]) if n_outputs == 1 else st.just(0)
    if draw(st.booleans()):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        copies = np.sort(rng.integers(0, n, draw(st.integers(SMALL_NODE + 1, 2 * SMALL_NODE + 20))))
        columns, task = [column[copies] for column in columns], task[copies]
        gradient, hessian, weight = gradient[:, copies].copy(), hessian[:, copies].copy(), weight[copies]
        gradient += scale * rng.integers(-2, 3, gradient.shape)
    problem = Problem(
        columns=[*columns, task],
        n_bins=[*n_bins, n_tasks],
        kinds=kinds,
        monotonic=[0 if kind else draw(signs) for kind in kinds],
        weight=weight,
        gradient=gradient,
        hessian=hessian,
        min_samples_leaf=draw(st.sampled_from([1.0, 1.0, 1.5, 3.0])),
        l2=draw(st.sampled_from([0.0, 0.0, 0.75])),
        categorical_prior=draw(st.sampled_from([10.0, 0.5])),
        categorical_min_rows=draw(st.sampled_from([0.0, 1.0, 3.0])),
        max_leaf_nodes=draw(st.integers(1, 8)),
        max_depth=draw(st.sampled_from([1, 2, 3, NO_LIMIT])),
    )
    return problem, task, n_tasks, is_constant


def kernel_inputs(problem: Problem, task: np.ndarray, n_tasks: int, is_constant: bool):  # type: ignore[no-untyped-def]
    """What the kernels take for a `Problem` from `tree_problems`: rows, layout, options."""
    n_features = len(problem.columns) - 1
    codes = np.array(problem.columns[:-1], dtype=np.uint8).reshape(n_features, len(task))
    rows = training_rows(codes, task, weight=problem.weight, n_tasks=n_tasks)
    layout = bin_layout(problem.n_bins, problem.kinds, problem.monotonic)
    options = split_options(
        is_constant,
        min_samples_leaf=problem.min_samples_leaf,
        min_hessian=problem.min_hessian,
        l2=problem.l2,
        categorical_prior=problem.categorical_prior,
        categorical_min_rows=problem.categorical_min_rows,
    )
    return rows, layout, options
