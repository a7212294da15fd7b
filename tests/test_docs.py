"""The site keeps its word: the code on its pages runs and prints what is said; every public name has its page."""

import contextlib
import io
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

import mttab

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.rst"), *DOCS.glob("guide/*.rst")])
SUBMODULES = ("dask", "datasets", "metrics", "model_selection", "plotting")


class Block(NamedTuple):
    """A piece of code on a page: what it needs to be there, and what it prints (None = not said)."""

    line: int
    code: str
    needs: str | None
    output: str | None


def read_blocks(text):
    """The Python blocks of a page, inside tables too; a text block that follows one is what it prints."""
    lines, blocks, needs, at = text.splitlines(), [], None, 0
    while at < len(lines):
        comment = re.match(r"\s*\.\. needs: (\S+)$", lines[at])
        found = re.search(r"\.\. code-block:: (python|text)$", lines[at])
        if comment:
            needs = comment[1]
        if not found:
            if lines[at].strip() and not comment and not lines[at].startswith(" "):
                is_next = False  # prose between code and text: the text is no output of the code
            at += 1
            continue
        column, start = found.start(), at + 1
        at = start
        while at < len(lines) and (not lines[at].strip() or len(lines[at]) - len(lines[at].lstrip()) > column):
            at += 1
        body = dedent("\n".join(lines[start:at])).strip("\n")
        if found[1] == "python":
            blocks.append(Block(start, body, needs, None))
            needs, is_next = None, True
        else:
            assert blocks and is_next, f"line {start}: a text block that follows no code"
            blocks[-1] = blocks[-1]._replace(output=body)
            is_next = False
    return blocks


def is_there(name):
    """Whether `Class.attribute` of the package exists."""
    owner, _, attribute = name.partition(".")
    return hasattr(getattr(mttab, owner), attribute)


def run_page(path):
    """Run the blocks of a page in their order, as one program; returns how many were run and how many left out."""
    space, n_run, left_out = {"__name__": "__main__"}, 0, []
    for block in read_blocks(path.read_text(encoding="utf-8")):
        if block.needs and not is_there(block.needs):
            left_out.append(block.needs)
            continue
        printed = io.StringIO()
        code = "\n" * block.line + block.code
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(path), "exec"), space)
        if block.output is not None:
            assert printed.getvalue().split() == block.output.split(), f"{path.name}, line {block.line}"
        n_run += 1
    return n_run, left_out


WITH_CODE = [page for page in PAGES if read_blocks(page.read_text(encoding="utf-8"))]
QUICK = {"reading", "production"}


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, id=p.stem, marks=[] if p.stem in QUICK else [pytest.mark.slow]) for p in WITH_CODE],
)
def test_the_code_of_a_page_runs_and_prints_what_the_page_shows(page, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="pages draw")
    monkeypatch.chdir(tmp_path)
    n_run, left_out = run_page(page)
    assert n_run >= 1
    if left_out:
        pytest.skip(f"{n_run} blocks run; not there yet: {', '.join(left_out)}")


def test_most_pages_have_code():
    assert {"choosing", "reading", "tuning", "many_tasks", "new_tasks", "production", "migration"} <= {
        page.stem for page in WITH_CODE
    }


def test_blocks_are_found_with_their_output_inside_tables_too():
    text = """
Title

.. code-block:: python

   a = 1
   if a:

       print(a)

.. code-block:: text

   1

.. needs: RMTGBRegressor.fit

   * - .. code-block:: python

          b = 2

     - .. code-block:: python

          c = 3
"""
    first, second, third = read_blocks(text)
    assert first.code == "a = 1\nif a:\n\n    print(a)" and first.output == "1" and first.needs is None
    assert second.code == "b = 2" and second.needs == "RMTGBRegressor.fit" and second.output is None
    assert third.code == "c = 3" and third.needs is None


def test_the_reference_lists_every_public_name_and_no_other():
    module, listed = "mttab", set()
    for line in (DOCS / "reference.rst").read_text(encoding="utf-8").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split(":: ")[1]
        elif re.fullmatch(r"   \w+", line):
            listed.add(f"{module}.{line.strip()}")
    public = {f"mttab.{name}" for name in mttab.__all__ if name != "__version__" and name not in SUBMODULES}
    for part in SUBMODULES:
        public |= {f"mttab.{part}.{name}" for name in import_module(f"mttab.{part}").__all__}
    assert listed == public


def test_every_page_of_the_guide_is_linked():
    index = (DOCS / "guide" / "index.rst").read_text(encoding="utf-8")
    for page in DOCS.glob("guide/*.rst"):
        assert page.stem == "index" or f"   {page.stem}\n" in index


def test_pages_link_to_examples_that_exist():
    linked = {name for page in PAGES for name in re.findall(r"/auto_examples/(\w+)`", page.read_text(encoding="utf-8"))}
    assert len(linked) >= 4
    assert linked <= {path.stem for path in (ROOT / "examples").glob("*.py")}


def test_every_paper_a_public_docstring_names_is_in_the_citation_file():
    cited = set(re.findall(r"arXiv:(\d{4}\.\d{5})", (ROOT / "CITATION.cff").read_text(encoding="utf-8")))
    named = {
        number
        for path in (ROOT / "mttab").rglob("*.py")
        for number in re.findall(r"arXiv:\s*(\d{4}\.\d{5})", path.read_text(encoding="utf-8"))
    }
    ours = {"2507.11411", "2602.14231", "2511.09970"}  # the methods themselves; docstrings name others besides
    assert ours <= named & cited


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """The pages and the reference; the examples are run by `make docs` and by tests/test_examples.py."""
    for package in ("sphinx", "numpydoc", "sphinx_gallery", "pydata_sphinx_theme"):
        pytest.importorskip(package, reason="the site is built by the packages of the extra docs")
    source = tmp_path / "docs"  # the build writes generated pages beside its sources
    subprocess.run(["cp", "-r", str(DOCS), str(source)], check=True)
    subprocess.run(["rm", "-rf", *(str(source / made) for made in ("_build", "api", "auto_examples"))], check=True)
    subprocess.run(["cp", "-r", str(ROOT / "examples"), str(tmp_path / "examples")], check=True)
    options = ["-W", "--keep-going", "-q", "-b", "html", "-D", "plot_gallery=0"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(tmp_path / "site")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    for page in ("index.html", "guide/reading.html", "api/mttab.RMTGBRegressor.html", "auto_examples/index.html"):
        assert (tmp_path / "site" / page).stat().st_size > 5000
    assert "outlier_score_" in (tmp_path / "site" / "api" / "mttab.RMTGBRegressor.html").read_text()
