"""A forest as it acts for one task, written as a model in LightGBM's text format.

What depends on the task is worked out: splits on the task id are replaced by the branch that the task takes, leaf
values are multiplied by the task's weight of a partition group and by the scale of its target, and the base score goes
into the first tree, where LightGBM keeps its own. A tree whose leaves hold a value per class becomes a tree per class.

Splits carry over exactly. LightGBM sends a category that is missing or unknown right, always; where our trees send it
left the two children change places:

    ours          {b, d} or missing left       LightGBM's      the others left
                     ↙           ↘                              ↙        ↘
                   L               R                           R          L
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .forest import Forest, Nodes

# LightGBM reads numbers this near to 0 as 0, so it cannot tell apart what a threshold among them does.
ZERO_BELOW = 1e-35
# Bits of `decision_type`: a split on categories; missing values go left; NaN is what counts as missing.
_IS_CATEGORICAL, _MISSING_LEFT, _NAN_IS_MISSING = 1, 2, 8


class Column(NamedTuple):
    """One feature as LightGBM is to see it.

    name : without spaces or characters that LightGBM refuses; title : what the user calls it, for error messages
    info : entry of ``feature_infos``, the range of its values
    categories : for each code of our trees the categories (ints) that LightGBM is given; None for a numeric feature
    """

    name: str
    title: str
    info: str
    categories: list[np.ndarray] | None = None


class _PlainTree(NamedTuple):
    """A tree without splits on the task, in LightGBM's numbering.

    inner, leaves : nodes of the forest; left, right : place in ``inner``, or ~place in ``leaves``
    leaf_count, inner_count : rows, whole numbers of at least 1 that add up
    """

    inner: list[int]
    leaves: list[int]
    left: list[int]
    right: list[int]
    leaf_count: list[int]
    inner_count: list[int]


def lightgbm_text(
    forest: Forest, task: int, columns: list[Column], objective: str, scale: float = 1.0, center: float = 0.0
) -> str:
    """The model, up to what LightGBM's Python package adds about pandas categories.

    Parameters
    ----------
    forest : Forest
    task : int
        Index of the task, n_tasks for one that was not seen.
    columns : list of Column
        The features, without the task.
    objective : str
        LightGBM's name of a loss with the same link.
    scale, center : float
        The score is multiplied and shifted by them.

    Raises
    ------
    ValueError
        If a threshold is nearer to 0 than LightGBM can tell.
    """
    blocks = [_tree_text(i, *tree) for i, tree in enumerate(_trees(forest, task, columns, scale, center))]
    n_outputs = forest.n_outputs
    name = objective.split()[0]
    if n_outputs > 1:
        objective += f" num_class:{n_outputs}"
    header = {
        "version": "v4",
        "num_class": n_outputs,
        "num_tree_per_iteration": n_outputs,
        "label_index": 0,
        "max_feature_idx": len(columns) - 1,
        "objective": objective,
        "feature_names": " ".join(column.name for column in columns),
        "feature_infos": " ".join(column.info for column in columns),
        "tree_sizes": " ".join(str(len(block)) for block in blocks),
    }
    lines = ["tree", *(f"{key}={value}" for key, value in header.items()), "", ""]
    parameters = ["parameters:", "[boosting: gbdt]", f"[objective: {name}]", "end of parameters", ""]
    return "\n".join(lines) + "".join(blocks) + "end of trees\n\n" + "\n".join(parameters)


def _trees(forest: Forest, task: int, columns: list[Column], scale: float, center: float) -> list[tuple]:
    """Fields and leaf values of every tree in LightGBM's order: round after round, within it class after class."""
    nodes, n_outputs, n_values = forest.nodes, forest.n_outputs, forest.nodes.value.shape[1]
    trees: list[list[tuple]] = [[] for _ in range(n_outputs)]
    for tree, share in zip(*forest.trees_of(task), strict=True):
        plain = _plain_tree(nodes, int(forest.trees.root[tree]), task, len(forest.mixing) - 1, len(columns))
        fields = _split_fields(nodes, plain, columns)
        value = scale * share * nodes.value[plain.leaves]
        for k in range(n_values):
            trees[int(forest.trees.output[tree]) + k].append((plain, fields, value[:, k]))
    first = scale * forest.base + center
    no_split = _PlainTree([], [0], [], [], [1], [])
    for k, of_output in enumerate(trees):
        if of_output:
            plain, fields, value = of_output[0]
            of_output[0] = plain, fields, value + first[k]
        else:
            of_output.append((no_split, {}, first[k : k + 1]))
    n_rounds = max(len(of_output) for of_output in trees)
    nothing: tuple = (no_split, {}, np.zeros(1))
    return [of_output[r] if r < len(of_output) else nothing for r in range(n_rounds) for of_output in trees]


def _plain_tree(nodes: Nodes, root: int, task: int, n_tasks: int, n_features: int) -> _PlainTree:
    inner: list[int] = []
    leaves: list[int] = []
    children: tuple[list[int], list[int]] = ([], [])
    open_nodes = [(root, -1, 0)]  # node, place of its parent, and which of its children it is
    while open_nodes:
        node, parent, side = open_nodes.pop()
        while nodes.feature[node] == n_features:
            goes_left = nodes.missing_left[node] if task == n_tasks else _has_level(nodes, node, task)
            node = int(nodes.left[node] if goes_left else nodes.right[node])
        if nodes.feature[node] < 0:
            place = ~len(leaves)
            leaves.append(node)
        else:
            place = len(inner)
            inner.append(node)
            pair = int(nodes.left[node]), int(nodes.right[node])
            if _is_turned(nodes, node):
                pair = pair[::-1]
            for is_right in (1, 0):
                children[is_right].append(0)
                open_nodes.append((pair[is_right], place, is_right))
        if parent >= 0:
            children[side][parent] = place
    leaf_count = [max(1, round(weight)) for weight in nodes.weight[leaves].tolist()]
    inner_count = [0] * len(inner)
    for place in reversed(range(len(inner))):  # children stand after their parents
        for child in (children[0][place], children[1][place]):
            inner_count[place] += leaf_count[~child] if child < 0 else inner_count[child]
    return _PlainTree(inner, leaves, children[0], children[1], leaf_count, inner_count)


def _is_turned(nodes: Nodes, node: int) -> bool:
    """Whether the children of a split change places, see the head of this file."""
    return bool(nodes.category_start[node] >= 0 and nodes.missing_left[node])


def _has_level(nodes: Nodes, node: int, level: int) -> bool:
    """Whether a level is in the set that goes left; one that the set does not cover goes where missing ones do."""
    if level >= nodes.n_levels[node]:
        return bool(nodes.missing_left[node])
    word = int(nodes.category_words[nodes.category_start[node] + (level >> 5)])
    return bool((word >> (level & 31)) & 1)


def _split_fields(nodes: Nodes, tree: _PlainTree, columns: list[Column]) -> dict[str, list]:
    """The lines of LightGBM's format that describe splits; they are the same for every output of a vector leaf."""
    threshold: list[float | int] = []
    decision: list[int] = []
    category_words: list[int] = []
    category_end = [0]
    for node in tree.inner:
        column = columns[nodes.feature[node]]
        if nodes.category_start[node] >= 0:
            threshold.append(len(category_end) - 1)
            decision.append(_IS_CATEGORICAL | _NAN_IS_MISSING)
            category_words += _left_categories(nodes, node, column)
            category_end.append(len(category_words))
            continue
        value = float(nodes.threshold[node])
        if 0.0 < abs(value) <= ZERO_BELOW:
            raise ValueError(
                f"{column.title} is split at {value!r}, but LightGBM reads numbers below {ZERO_BELOW} as 0; rescale "
                "that column and fit again."
            )
        threshold.append(value)
        decision.append(_NAN_IS_MISSING | (_MISSING_LEFT if nodes.missing_left[node] else 0))
    fields = {
        "split_feature": nodes.feature[tree.inner].tolist(),
        "split_gain": nodes.gain[tree.inner].tolist(),
        "threshold": threshold,
        "decision_type": decision,
        "left_child": tree.left,
        "right_child": tree.right,
    }
    if len(category_end) > 1:
        fields |= {"cat_boundaries": category_end, "cat_threshold": category_words}
    return fields


def _left_categories(nodes: Nodes, node: int, column: Column) -> list[int]:
    """Words of 32 bits each, with the bits of the categories that LightGBM sends left set."""
    assert column.categories is not None
    is_turned = _is_turned(nodes, node)
    members = [c for code, c in enumerate(column.categories) if _has_level(nodes, node, code) != is_turned]
    categories = np.concatenate([np.empty(0, dtype=np.int64), *members])
    words = np.zeros(int(categories.max(initial=0)) // 32 + 1, dtype=np.uint32)
    np.bitwise_or.at(words, categories // 32, np.uint32(1) << (categories % 32).astype(np.uint32))
    return words.tolist()


def _tree_text(index: int, tree: _PlainTree, fields: dict[str, list], leaf_value: np.ndarray) -> str:
    count = np.array([*tree.leaf_count, *tree.inner_count], dtype=np.float64)
    n_leaves, value = len(tree.leaves), np.append(leaf_value, np.zeros(len(tree.inner)))
    for place in reversed(range(len(tree.inner))):
        # ~place of a leaf becomes its place, that of an inner node stands after the leaves.
        below = [~child if child < 0 else n_leaves + child for child in (tree.left[place], tree.right[place])]
        value[n_leaves + place] = value[below] @ count[below] / count[n_leaves + place]
    lines = {
        "num_leaves": [n_leaves],
        "num_cat": [len(fields.get("cat_boundaries", [0])) - 1],
        **{key: line for key, line in fields.items() if not key.startswith("cat_")},
        "leaf_value": leaf_value.tolist(),
        "leaf_weight": tree.leaf_count,
        "leaf_count": tree.leaf_count,
        "internal_value": value[n_leaves:].tolist(),
        "internal_weight": tree.inner_count,
        "internal_count": tree.inner_count,
        **{key: line for key, line in fields.items() if key.startswith("cat_")},
        "is_linear": [0],
        "shrinkage": [1],
    }
    # repr gives the shortest digits that read back as the same float64.
    text = "\n".join(f"{key}={' '.join(map(repr, line))}" for key, line in lines.items())
    return f"Tree={index}\n{text}\n\n\n"
