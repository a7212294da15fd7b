"""Where the workers of a Dask fit add up arrays: over sockets between them, past the scheduler.

A round asks for a sum per split, and each of them has to wait for it: through Dask's own channels that takes
milliseconds, through a socket some tens of microseconds. The worker of rank 0 listens, the others connect once per fit,
and all hold the secret that the client gave them. What travels is raw float64, never a pickle; where Dask encrypts, so
do these sockets, with Dask's certificates.
"""

from __future__ import annotations

import hmac
import socket
import struct
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from mttab._core.boosting.rows import Peers

# A process that waits longer than this for the others gives up: nobody is left who could tell it that the fit is over.
PATIENCE_SECONDS = 3600.0
# Until a connection stands, and until it has said who it is.
CONNECT_SECONDS, GREETING_SECONDS = 30.0, 10.0
_GREETING = struct.Struct("<32sq")  # secret, rank
_HEADER = struct.Struct("<qq")  # number of the sum, values in it


class LeftAlone(RuntimeError):
    """The others have ended, or cannot be reached; the reason is with one of them."""


class Place(NamedTuple):
    """What a worker has to know to come to a meeting."""

    host: str
    port: int
    secret: bytes


class Meeting:
    """Rank 0's end of all connections; the client may end it from outside while rank 0 waits for the others."""

    def __init__(self, host: str, tls: Any = None):
        self.listener = socket.create_server((host, 0), family=_family(host))
        self.port = int(self.listener.getsockname()[1])
        self.tls = tls
        self.connections: dict[int, socket.socket] = {}
        self.why_ended: str | None = None

    def gather(self, n_ranks: int, secret: bytes) -> list[socket.socket]:
        """Connections to ranks 1, 2, … once all of them are there."""
        until = time.monotonic() + PATIENCE_SECONDS
        while len(self.connections) < n_ranks - 1:
            self._check_open()
            try:
                self.listener.settimeout(max(until - time.monotonic(), 0.01))
                found, _ = self.listener.accept()
            except OSError as err:
                self._check_open()
                raise LeftAlone(f"only {1 + len(self.connections)} of {n_ranks} workers came to the fit") from err
            self._let_in(found, n_ranks, secret)
        self._check_open()
        self.listener.close()
        return [self.connections[r] for r in range(1, n_ranks)]

    def end(self, why: str) -> None:
        """Send everybody home: who waits at a connection is woken up."""
        self.why_ended = self.why_ended or why
        for connection in [self.listener, *self.connections.values()]:
            _wake_up(connection)
        self.listener.close()  # connections are closed by the thread that reads from them

    def _check_open(self) -> None:
        if self.why_ended is not None:
            raise LeftAlone(self.why_ended)

    def _let_in(self, found: socket.socket, n_ranks: int, secret: bytes) -> None:
        """Keep a connection that knows the secret; anything else that knocks is turned away."""
        found.settimeout(GREETING_SECONDS)
        try:
            if self.tls is not None:
                found = self.tls.wrap_socket(found, server_side=True)
            given, rank = _GREETING.unpack(_receive(found, _GREETING.size))
        except (OSError, LeftAlone):
            found.close()
            return
        if not hmac.compare_digest(given, secret) or not 0 < rank < n_ranks or rank in self.connections:
            found.close()
            return
        self.connections[rank] = _prepared(found)


# Meetings of the fits that are under way, of which this process is rank 0.
_OPEN: dict[bytes, Meeting] = {}


def open_meeting(secret: bytes) -> Place:
    """Listen on this worker, which is to be rank 0."""
    from distributed import get_worker

    worker = get_worker()
    host = _host_of(worker)
    try:
        meeting = Meeting(host, _tls_of(worker, "get_listen_args"))
    except OSError as err:
        raise RuntimeError(
            f"The worker {worker.address} cannot listen for the others ({err}); start workers with an address of their "
            "own machine."
        ) from err
    _OPEN[secret] = meeting
    return Place(host, meeting.port, secret)


def end_meeting(secret: bytes, why: str) -> None:
    """End a meeting of this worker, if it is not over yet."""
    meeting = _OPEN.pop(secret, None)
    if meeting is not None:
        meeting.end(why)


class MeetingPeers(Peers):
    """`Peers` that add up over sockets; counts what it sends. A context that hangs up at its end.

    Rank 0 adds the arrays in the order of the ranks and sends everybody the sum, so that all hold the same bytes.
    """

    def __init__(self, place: Place, rank: int, n_ranks: int):
        self.rank, self.n_ranks, self.secret = rank, n_ranks, place.secret
        self.n_messages = self.n_bytes = 0
        self.meeting: Meeting | None = None
        if rank == 0:
            self.meeting = _OPEN.get(place.secret)
            if self.meeting is None:
                raise LeftAlone("this worker was started anew since the fit began")
            self.connections: Sequence[socket.socket] = self.meeting.gather(n_ranks, place.secret)
        else:
            self.connections = [_connect(place, rank)]

    def __enter__(self) -> MeetingPeers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.meeting is not None:
            end_meeting(self.secret, "the fit is over" if error is None else f"rank 0 has failed: {error!r}")
        for connection in self.connections:
            _wake_up(connection)
            connection.close()

    def sum(self, values: np.ndarray) -> np.ndarray:
        values = np.ascontiguousarray(values, dtype=np.float64)
        self.n_messages += 1
        self.n_bytes += values.nbytes
        header = _HEADER.pack(self.n_messages, values.size)
        try:
            return self._sum_of_all(values, header) if self.rank == 0 else self._sum_from_first(values, header)
        except (OSError, LeftAlone) as err:
            why = None if self.meeting is None else self.meeting.why_ended
            raise LeftAlone(why or "another worker of the fit has ended before its time") from err

    def _sum_of_all(self, values: np.ndarray, header: bytes) -> np.ndarray:
        total, other = values.copy(), np.empty_like(values)
        for connection in self.connections:
            if _receive(connection, _HEADER.size) != header:
                raise RuntimeError("The workers have come to different trees; are they machines of one kind?")
            _receive_into(connection, other)
            total += other
        for connection in self.connections:
            connection.sendall(total.data.cast("B"))
        return total

    def _sum_from_first(self, values: np.ndarray, header: bytes) -> np.ndarray:
        (connection,) = self.connections
        connection.sendall(header)
        connection.sendall(values.data.cast("B"))
        total = np.empty_like(values)
        _receive_into(connection, total)
        return total


# --- sockets --------------------------------------------------------------------------------------------------------


def _connect(place: Place, rank: int) -> socket.socket:
    from distributed import get_worker

    tls = _tls_of(get_worker(), "get_connection_args")
    try:
        connection = socket.create_connection((place.host, place.port), timeout=CONNECT_SECONDS)
        connection.settimeout(PATIENCE_SECONDS)  # rank 0 answers when it has got its rows
        if tls is not None:
            connection = tls.wrap_socket(connection, server_hostname=place.host)
        connection.sendall(_GREETING.pack(place.secret, rank))
    except OSError as err:
        raise LeftAlone(
            f"this worker cannot reach the one at {place.host}, port {place.port} ({err}); workers have to reach each "
            "other at any port"
        ) from err
    return _prepared(connection)


def _prepared(connection: socket.socket) -> socket.socket:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what waits to be joined by more, waits in vain
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.settimeout(PATIENCE_SECONDS)
    return connection


def _receive(connection: socket.socket, n_bytes: int) -> bytes:
    found = bytearray(n_bytes)
    _fill(connection, memoryview(found))
    return bytes(found)


def _receive_into(connection: socket.socket, out: np.ndarray) -> None:
    _fill(connection, out.data.cast("B"))


def _fill(connection: socket.socket, out: memoryview) -> None:
    done = 0
    while done < len(out):
        n = connection.recv_into(out[done:])
        if n == 0:
            raise LeftAlone("a connection was closed")
        done += n


def _wake_up(connection: socket.socket) -> None:
    """End a thread's waiting at a connection, here and at the other end; close alone does not."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed
        pass


def _family(host: str) -> socket.AddressFamily:
    return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]


def _host_of(worker: Any) -> str:
    from distributed.comm.addressing import get_address_host

    return str(get_address_host(worker.address))


def _tls_of(worker: Any, which: str) -> Any:
    """Dask's certificates as a context for sockets, None where it does not encrypt."""
    if not worker.address.startswith("tls"):
        return None
    return getattr(worker.security, which)("worker")["ssl_context"]
