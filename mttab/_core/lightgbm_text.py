"""LightGBM's text of a model, checked before LightGBM reads it: it believes every size and index in there."""

from __future__ import annotations

import re

import numpy as np

from mttab._core.records import require

_INTEGERS = re.compile(r" *(?:-?[0-9]{1,10}(?: +|$))*")
_NUMBERS = re.compile(r"[-+.0-9a-z ]*")
_KEY = re.compile(r"[a-z_]+")
_PARAMETER = re.compile(r"\[[A-Za-z0-9_]+:.*\]")
# LightGBM reads so many lines of a tree, and leaves what follows unread.
_MAX_TREE_LINES = 22
_CATEGORICAL = 1  # bit of a decision type


def check_lightgbm_text(text: str) -> None:
    """Raise ValueError unless all sizes and indices in the text of a ``lightgbm.Booster`` fit together.

    A text that passes may hold nonsense as numbers, but neither reading it nor predicting with it leaves its arrays,
    and every row ends in a leaf.
    """
    require(text.startswith("tree\n") and not re.search("[\0\r]", text), "it is no text of LightGBM")
    head, _, body = text.encode().partition(b"\nTree=")
    fields = _read_head(head.decode())
    n_features = _integer(fields, "max_feature_idx") + 1
    names = [name for name in fields.get("feature_names", "").split(" ") if name]
    require(len(names) == n_features, "feature_names are not max_feature_idx + 1")
    sizes = _integers(fields, "tree_sizes").tolist()
    _check_classes(fields, len(sizes))
    body, start = b"Tree=" + body, 0
    for i, size in enumerate(sizes):
        require(size > 0, "a tree has no size")
        block = body[start : start + size].decode("ascii")
        _check_tree(_read_tree(block, i), n_features)
        start += size
    rest = body[start:].decode()
    require(rest.startswith("end of trees\n"), "tree_sizes are not those of the trees")
    _check_parameters(rest)


def _read_head(head: str) -> dict[str, str]:
    """Lines ``key=value`` before the trees."""
    lines = [line for line in head.split("\n")[1:] if line and line != "average_output"]
    for line in lines:
        key, _, value = line.partition("=")
        require("=" not in value or key in ("feature_names", "monotone_constraints"), "a line has two values")
    return _by_key(lines)


def _read_tree(block: str, i: int) -> dict[str, str]:
    title, *lines = block.split("\n")
    require(title == f"Tree={i}" and lines[-2:] == ["", ""], "tree_sizes are not those of the trees")
    fields = _by_key(lines[: lines.index("")])
    require(len(fields) <= _MAX_TREE_LINES and not any(lines[len(fields) :]), "a tree has lines that are not read")
    return fields


def _by_key(lines: list[str]) -> dict[str, str]:
    parts = [line.partition("=") for line in lines]
    require(all(_KEY.fullmatch(key) and sign for key, sign, _ in parts), "a line is no key=value")
    fields = {key: value for key, _, value in parts}
    require(len(fields) == len(lines), "a line is there twice")
    return fields


def _check_classes(fields: dict[str, str], n_trees: int) -> None:
    n_classes = _integer(fields, "num_class")
    require(n_classes >= 1, "num_class is not positive")
    require(_integer(fields, "num_tree_per_iteration") == n_classes, "num_tree_per_iteration is not num_class")
    require(n_trees > 0 and n_trees % n_classes == 0, "the last iteration lacks a tree")
    named = [part for part in fields.get("objective", "").split(" ") if "num_class" in part]
    require(set(named) <= {f"num_class:{n_classes}"}, "the objective has another num_class")


def _check_tree(fields: dict[str, str], n_features: int) -> None:
    n_leaves, is_linear = _integer(fields, "num_leaves"), "is_linear" in fields and _integer(fields, "is_linear") != 0
    require(n_leaves >= 1, "a tree has no leaf")
    require(len(_numbers(fields, "leaf_value")) == n_leaves, "leaf_value is not one per leaf")
    n_categorical = _integer(fields, "num_cat")
    require(n_categorical >= 0, "num_cat is negative")
    if is_linear:
        _check_linear_leaves(fields, n_leaves, n_features)
    if n_categorical:
        bounds = _integers(fields, "cat_boundaries")
        require(len(bounds) == n_categorical + 1, "cat_boundaries are not num_cat")
        require(bounds[0] == 0 and (np.diff(bounds) >= 0).all(), "cat_boundaries do not ascend")
        require(len(_integers(fields, "cat_threshold")) == bounds[-1], "cat_threshold does not end where it should")
    if n_leaves > 1:
        _check_splits(fields, n_leaves, n_features, n_categorical)


def _check_splits(fields: dict[str, str], n_leaves: int, n_features: int, n_categorical: int) -> None:
    n_nodes = n_leaves - 1
    names = ("split_feature", "decision_type", "left_child", "right_child")
    feature, decision, left, right = (_integers(fields, name) for name in names)
    threshold = _numbers(fields, "threshold")
    lengths = {len(part) for part in (feature, decision, left, right, threshold)}
    require(lengths == {n_nodes}, "a split lacks a part")
    require((feature >= 0).all() and (feature < n_features).all(), "a tree asks for a feature that is not there")
    require((decision >= 0).all() and (decision < 16).all(), "a decision_type is none")
    place = threshold[(decision & _CATEGORICAL) != 0]
    require(((place >= 0) & (place < n_categorical)).all(), "a split asks for categories that are not there")
    children = np.concatenate([left, right])
    all_but_root = np.delete(np.arange(-n_leaves, n_nodes), n_leaves)
    require(np.array_equal(np.sort(children), all_but_root), "a node or leaf is not the child of exactly one node")
    is_below = (children < 0) | (children > np.tile(np.arange(n_nodes), 2))
    require(is_below.all(), "a node stands before its parent")


def _check_linear_leaves(fields: dict[str, str], n_leaves: int, n_features: int) -> None:
    n_terms, feature = _integers(fields, "num_features"), _integers(fields, "leaf_features")
    require(len(_numbers(fields, "leaf_const")) == len(n_terms) == n_leaves, "a leaf lacks its linear model")
    require((n_terms >= 0).all(), "num_features is negative")
    n_coefficients = len(_numbers(fields, "leaf_coeff"))
    require(len(feature) == n_coefficients == n_terms.sum(), "a linear model lacks a coefficient")
    require((feature >= 0).all() and (feature < n_features).all(), "a leaf asks for a feature that is not there")


def _check_parameters(rest: str) -> None:
    """What stands between "parameters:" and "end of parameters" is one "[name: value]" a line."""
    lines = rest.split("\n")
    if "parameters:" not in lines:
        return
    lines = lines[lines.index("parameters:") + 1 :]
    require("end of parameters" in lines, "the parameters do not end")
    lines = lines[: lines.index("end of parameters")]
    require(all(not line or _PARAMETER.fullmatch(line) for line in lines), "a parameter has no value")


def _integer(fields: dict[str, str], name: str) -> int:
    (value,) = _integers(fields, name).tolist() or [-1]
    return value


def _integers(fields: dict[str, str], name: str) -> np.ndarray:
    text = fields.get(name, "")
    require(_INTEGERS.fullmatch(text), f"{name} are no integers")
    return np.array(text.split(), dtype=np.int64)


def _numbers(fields: dict[str, str], name: str) -> np.ndarray:
    text = fields.get(name, "")
    require(_NUMBERS.fullmatch(text), f"{name} are no numbers")
    return np.array(text.split(), dtype=np.float64)
