"""Which rows a round trains on: drawn by what is in a row, so that equal rows are drawn together."""

from __future__ import annotations

import numpy as np

from .jit import lean, lean_jit


def uniform_of_keys(key, seed):  # type: ignore[no-untyped-def]
    """Numbers in [0, 1) from the random bits of rows, an array of them or, in kernels, one, and a seed, all uint64."""
    mixed = key ^ seed
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53


_uniform_of_key = lean(uniform_of_keys)


@lean_jit
def draw_rows(key, seed, share, task_start, out_rows, out_row_start, out_left, out_left_start):  # type: ignore[no-untyped-def]
    """Part the rows of every task into those with numbers below ``share``, and those that are left out.

    key : uint64 (n_rows,); task_start : int64 (n_tasks + 1,)
    out_rows, out_left : uint32 (n_rows,); out_row_start, out_left_start : int64 (n_tasks + 1,), of each task

    Returns how many rows are in.
    """
    n_in, n_left = np.uint64(0), np.uint64(0)
    for t in range(len(task_start) - 1):
        out_row_start[t], out_left_start[t] = n_in, n_left
        for i in range(task_start[t], task_start[t + 1]):
            # Every row is written to both and counted in one: nobody could predict a branch.
            out_rows[n_in] = i
            out_left[n_left] = i
            is_in = _uniform_of_key(key[i], seed) < share
            n_in += np.uint64(is_in)
            n_left += np.uint64(not is_in)
    out_row_start[len(task_start) - 1], out_left_start[len(task_start) - 1] = n_in, n_left
    return np.int64(n_in)


@lean_jit
def leave_tasks_out(  # type: ignore[no-untyped-def]
    rows, row_start, left, left_start, is_member, out_rows, out_row_start, out_left, out_left_start
):
    """Leave out all rows of the tasks where ``is_member`` (n_tasks,) does not hold, as if they had not been drawn.

    rows, left : uint32, in and left out, both in order; row_start, left_start : int64 (n_tasks + 1,), of each task;
    together the rows of a task are a range

    Returns how many rows are in; out_rows, out_left : uint32, of the length of both together.
    """
    n_in, n_left, n_tasks = 0, 0, len(row_start) - 1
    for t in range(n_tasks):
        out_row_start[t], out_left_start[t] = n_in, n_left
        if is_member[t]:
            for j in range(row_start[t], row_start[t + 1]):
                out_rows[n_in] = rows[j]
                n_in += 1
            for j in range(left_start[t], left_start[t + 1]):
                out_left[n_left] = left[j]
                n_left += 1
        else:
            for i in range(row_start[t] + left_start[t], row_start[t + 1] + left_start[t + 1]):
                out_left[n_left] = i
                n_left += 1
    out_row_start[n_tasks], out_left_start[n_tasks] = n_in, n_left
    return n_in
