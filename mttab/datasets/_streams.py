"""One seed, many independent random streams: one per purpose, so that one knob leaves the others' draws alone."""

from __future__ import annotations

from typing import Any

import numpy as np


class Streams:
    """Independent generators addressed by a purpose and indices, all derived from one seed.

    Parameters
    ----------
    random_state : None, int, numpy.random.SeedSequence, Generator or RandomState
        An int gives the same streams every time, None fresh ones; a generator is advanced once.
    purposes : tuple of str
        Names of the streams. Their order is part of the seed: append, never insert.
    """

    def __init__(self, random_state: Any, purposes: tuple[str, ...]) -> None:
        self._seed = _seed_sequence(random_state)
        self._purposes = purposes
        self._n_fresh = 0

    def generator(self, purpose: str, *index: int) -> np.random.Generator:
        """Return the generator of `purpose`; the same arguments always start the same stream."""
        key = (*self._seed.spawn_key, self._purposes.index(purpose), *index)
        return np.random.default_rng(np.random.SeedSequence(self._seed.entropy, spawn_key=key))

    def fresh(self) -> Streams:
        """Return streams of the same purposes that share nothing with these; every call gives new ones."""
        self._n_fresh += 1
        key = (*self._seed.spawn_key, len(self._purposes) + 1000, self._n_fresh)
        return Streams(np.random.SeedSequence(self._seed.entropy, spawn_key=key), self._purposes)


def _seed_sequence(random_state: Any) -> np.random.SeedSequence:
    if isinstance(random_state, np.random.SeedSequence):
        return random_state
    if isinstance(random_state, np.random.Generator):
        return np.random.SeedSequence(random_state.integers(2**32, size=4).tolist())
    if isinstance(random_state, np.random.RandomState):
        return np.random.SeedSequence(random_state.randint(2**32, size=4, dtype=np.uint32).tolist())
    if random_state is None:
        return np.random.SeedSequence()
    if isinstance(random_state, (int, np.integer)) and random_state >= 0:
        return np.random.SeedSequence(int(random_state))
    raise ValueError(
        f"random_state={random_state!r} must be None, an int of at least 0, a numpy Generator or RandomState."
    )
