"""Settings that must stand before numba and matplotlib are imported, and fixtures that several files share."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]


def _numba_cache_dir() -> str:
    """One cache folder per state of the kernels: numba notices edits in a function's own file, not in its callees'.

    And one per version of numba, which would throw away what another one left.
    """
    kernels = hashlib.sha256(version("numba").encode())
    for path in sorted((ROOT / "mttab" / "_core" / "boosting").glob("*.py")):
        kernels.update(path.name.encode() + path.read_bytes())
    parent = ROOT / ".numba_cache" if os.access(ROOT, os.W_OK) else Path(tempfile.gettempdir()) / "mttab_numba_cache"
    return str(parent / kernels.hexdigest()[:16])


# Workers of pytest-xdist and subprocesses inherit both.
os.environ.setdefault("NUMBA_CACHE_DIR", _numba_cache_dir())
os.environ["MPLBACKEND"] = "Agg"
if "PYTEST_XDIST_WORKER" in os.environ:  # a process per core: threads of torch that wait for each other only burn time
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A first call compiles, which no deadline per example survives. Fresh examples in every run find more by and by, but in
# continuous integration the same state must give the same verdict.
settings.register_profile("mttab", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("mttab")


@pytest.fixture
def busy_or_not() -> Iterator[None]:
    """Several threads for every step, even where no core is free for them."""
    from mttab._core.boosting.threads import threads_even_if_busy

    with threads_even_if_busy():
        yield


@pytest.fixture
def data_folder() -> Path:
    """A manifest folder with real tables, named by the environment variable MTTAB_DATA."""
    folder = os.environ.get("MTTAB_DATA")
    if not folder:
        pytest.skip("MTTAB_DATA names no manifest folder")
    return Path(folder)
