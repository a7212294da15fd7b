"""From trees under construction to the nodes of a forest: what is in use, one tree after the other."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .jit import lean_jit
from .tree_arrays import TreeArrays


class NodeRoom(NamedTuple):
    """Room for what `collect_nodes` writes of several stacks of trees, such as those of several rounds.

    ints : int32 (n_places, 5, max_nodes); floats : float64 (n_places, 3, max_nodes)
    missing_left : bool (n_places, max_nodes); value : float64 (n_places, max_nodes, K)
    words : uint32 (n_places, max_words)
    n_nodes : int64 (n_places, n_trees); n_nodes_of_all, n_words : int64 (n_places,), how much is in use
    """

    ints: np.ndarray
    floats: np.ndarray
    missing_left: np.ndarray
    value: np.ndarray
    words: np.ndarray
    n_nodes: np.ndarray
    n_nodes_of_all: np.ndarray
    n_words: np.ndarray


def new_room(n_places: int, grown: TreeArrays) -> NodeRoom:
    """Room for so many stacks of trees of the size of ``grown``."""
    n_trees, size, n_set_words = grown.category_set.shape
    max_nodes, n_outputs = n_trees * size, grown.value.shape[2]
    return NodeRoom(
        np.empty((n_places, 5, max_nodes), dtype=np.int32),
        np.empty((n_places, 3, max_nodes)),
        np.empty((n_places, max_nodes), dtype=np.bool_),
        np.empty((n_places, max_nodes, n_outputs)),
        np.empty((n_places, max_nodes * n_set_words), dtype=np.uint32),
        np.zeros((n_places, n_trees), dtype=np.int64),
        np.zeros(n_places, dtype=np.int64),
        np.zeros(n_places, dtype=np.int64),
    )


def shifted(place: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Places int32 in all parts from those in each; −1 stays what it is."""
    return place + shift * (place >= 0)


def joined(room: NodeRoom, n_places: int) -> tuple[np.ndarray, ...]:
    """The trees at the first places one after the other: ints, floats and so on, as `collect_nodes` writes them."""
    n_nodes, n_words = room.n_nodes_of_all[:n_places], room.n_words[:n_places]
    in_use = list(enumerate(n_nodes.tolist()))
    ints = np.concatenate([room.ints[j, :, :n] for j, n in in_use], axis=1)
    for row, n in ((1, n_nodes), (2, n_nodes), (3, n_words)):  # left, right and category_start
        shift = np.repeat((np.cumsum(n) - n).astype(np.int32), n_nodes)
        ints[row] = shifted(ints[row], shift)
    floats = np.concatenate([room.floats[j, :, :n] for j, n in in_use], axis=1)
    missing_left, value = (np.concatenate([part[j, :n] for j, n in in_use]) for part in (room.missing_left, room.value))
    words = np.concatenate([room.words[j, :n] for j, n in enumerate(n_words.tolist())])
    return ints, floats, missing_left, value, words


@lean_jit
def collect_nodes(grown, n_levels, rate, out_ints, out_floats, out_missing_left, out_value, out_words):  # type: ignore[no-untyped-def]
    """Copy the nodes of a stack of grown trees.

    grown : TreeArrays; n_levels : int64 (n_features + 1,), levels of each categorical feature and the task id, else 0
    rate : float, what leaf values are multiplied by
    out_ints : int32 (5, n_nodes), feature, left, right, category_start and n_levels, as `forest.Nodes` has them
    out_floats : float64 (3, n_nodes), threshold, gain and weight; out_missing_left : bool (n_nodes,)
    out_value : float64 (n_nodes, K); out_words : uint32, room for the sets of levels

    Returns how many words the sets of levels take.
    """
    feature, left, right, category_start, levels = out_ints[0], out_ints[1], out_ints[2], out_ints[3], out_ints[4]
    threshold, gain, weight = out_floats[0], out_floats[1], out_floats[2]
    root, n_words = 0, 0
    for t in range(len(grown.n_nodes)):
        for i in range(grown.n_nodes[t]):
            node, f = root + i, grown.feature[t, i]
            is_inner = f >= 0
            feature[node], out_missing_left[node] = f, grown.missing_left[t, i]
            left[node] = grown.left[t, i] + root if is_inner else -1
            right[node] = grown.right[t, i] + root if is_inner else -1
            threshold[node] = grown.threshold[t, i] if is_inner else np.inf
            gain[node], weight[node] = grown.gain[t, i], grown.weight[t, i]
            for k in range(out_value.shape[1]):
                out_value[node, k] = rate * grown.value[t, i, k]
            category_start[node], levels[node] = -1, 0
            if is_inner and n_levels[f] > 0:
                category_start[node], levels[node] = n_words, n_levels[f]
                for k in range((n_levels[f] + 31) // 32):
                    out_words[n_words] = grown.category_set[t, i, k]
                    n_words += 1
        root += grown.n_nodes[t]
    return n_words
