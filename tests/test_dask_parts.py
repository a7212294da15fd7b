"""The parts of a fit on Dask that need no cluster: who answers for a task, and how workers add up."""

import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("distributed", reason="the extra dask is not installed")

from mttab import RMTGBRegressor, _dask_meeting
from mttab._dask_crew import Crew
from mttab._dask_meeting import LeftAlone, MeetingPeers, end_meeting, open_meeting
from mttab._dask_placing import has_task_trees, place_tasks

SECRET = b"s" * 32


def test_a_task_goes_to_the_worker_with_most_of_its_rows_and_nearly_equal_ones_are_shared_out():
    mass = np.array([[90.0, 50.0, 50.0, 0.0], [10.0, 50.0, 50.0, 5.0]])
    placing = place_tasks(mass, np.array([True, True]), True)
    assert placing.has_moves
    assert placing.workers.tolist() == [0, 1]
    assert placing.owner.tolist() == [0, 1, 0, 1]  # the second one goes to the worker that has no task yet


def test_a_worker_that_answers_for_no_task_takes_no_part():
    placing = place_tasks(np.array([[0.0, 0.0], [5.0, 5.0], [100.0, 100.0]]), np.array([False, True, True]), True)
    assert placing.workers.tolist() == [2]
    assert placing.owner.tolist() == [0, 0]


def test_without_trees_of_a_task_rows_stay_and_an_empty_worker_takes_no_part():
    placing = place_tasks(np.array([[5.0, 5.0], [0.0, 0.0], [3.0, 9.0]]), np.array([True, False, True]), False)
    assert not placing.has_moves
    assert placing.workers.tolist() == [0, 2]
    assert placing.rank_of_worker[[0, 2]].tolist() == [0, 1]


def test_rows_of_one_task_are_looked_at_unless_all_is_pooled():
    assert has_task_trees(RMTGBRegressor(), 3)
    assert not has_task_trees(RMTGBRegressor(), 1)
    assert not has_task_trees(RMTGBRegressor(max_iter_task=0, max_iter_partition=0), 3)
    assert has_task_trees(RMTGBRegressor(max_iter_task=0), 3)
    assert not has_task_trees(RMTGBRegressor(max_iter_task=0, sharing="pooled"), 3)


# --- the meeting ----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def on_a_worker(monkeypatch):
    worker = SimpleNamespace(address="tcp://127.0.0.1:1", security=None)
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    monkeypatch.setattr(_dask_meeting, "GREETING_SECONDS", 0.2)
    yield
    end_meeting(SECRET, "the test is over")


def run_ranks(n_ranks, work):
    """What `work` gives, or the error that it raises, for the peers of every rank, each in a thread of its own."""
    place, found = open_meeting(SECRET), [None] * n_ranks

    def run(rank):
        try:
            with MeetingPeers(place, rank, n_ranks) as peers:
                found[rank] = work(peers)
        except Exception as err:
            found[rank] = err

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(n_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
        assert not thread.is_alive()
    return found


def test_all_ranks_get_the_same_bytes_added_in_the_order_of_the_ranks():
    parts = np.random.default_rng(0).normal(size=(3, 50, 7)) * 10.0 ** np.arange(3)[:, None, None]
    expected = (parts[0] + parts[1]) + parts[2]

    def work(peers):
        total = peers.sum(parts[peers.rank])
        total += 1.0  # is for writing
        return (
            peers.sum(parts[peers.rank]),
            peers.gather(np.array([float(peers.rank)])),
            peers.n_messages,
            peers.n_bytes,
        )

    for total, ranks, n_messages, n_bytes in run_ranks(3, work):
        assert np.array_equal(total, expected)
        assert ranks.ravel().tolist() == [0.0, 1.0, 2.0]
        assert (n_messages, n_bytes) == (3, 2 * parts[0].nbytes + 3 * 8)


def test_an_error_in_one_rank_ends_the_others_and_arrays_of_other_shape_are_noticed():
    def fail(peers):
        if peers.rank == 1:
            raise KeyError("a mistake")
        return peers.sum(np.ones(3))

    found = run_ranks(3, fail)
    assert [type(error) for error in found] == [LeftAlone, KeyError, LeftAlone]
    found = run_ranks(2, lambda peers: peers.sum(np.ones(3 + peers.rank)))
    assert "different trees" in str(found[0])
    assert isinstance(found[1], LeftAlone)


def test_who_does_not_know_the_secret_is_turned_away():
    place, found = open_meeting(SECRET), []

    def first():
        with MeetingPeers(place, 0, 2) as peers:
            found.append(peers.sum(np.ones(2)))

    thread = threading.Thread(target=first)
    thread.start()
    silent = socket.create_connection(place[:2])
    other = socket.create_connection(place[:2])
    other.sendall(_dask_meeting._GREETING.pack(b"x" * 32, 1))
    assert other.recv(1) == b""
    with MeetingPeers(place, 1, 2) as peers:
        assert peers.sum(np.ones(2)).tolist() == [2.0, 2.0]
    thread.join(timeout=20)
    silent.close()
    other.close()
    assert found[0].tolist() == [2.0, 2.0]


def test_a_meeting_can_be_ended_while_rank_0_waits():
    place, errors = open_meeting(SECRET), []

    def first():
        try:
            MeetingPeers(place, 0, 2)
        except LeftAlone as err:
            errors.append(str(err))

    thread = threading.Thread(target=first)
    thread.start()
    end_meeting(SECRET, "the fit was given up")
    thread.join(timeout=20)
    assert errors[0] in ("the fit was given up", "this worker was started anew since the fit began")
    with pytest.raises(LeftAlone, match="workers have to reach each other"):
        MeetingPeers(place, 1, 2)


# --- the crew -------------------------------------------------------------------------------------------------------


def test_the_error_that_is_raised_is_the_one_behind_those_of_workers_that_were_left_alone():
    def future(error):
        return SimpleNamespace(status="error", exception=lambda: error)

    crew = Crew(SimpleNamespace(nthreads=dict))
    with pytest.raises(KeyError, match="mistake"):
        crew.wait([future(LeftAlone("another worker has ended")), future(KeyError("mistake"))])
