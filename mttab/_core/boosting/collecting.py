"""From trees under construction to the nodes of a forest: what is in use, one tree after the other."""

from __future__ import annotations

import numpy as np

from .jit import lean_jit


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
