"""The pages: a few notebooks are rendered whole, all others with their headings, and the site is looked at as a browser without network would."""
import ast
import importlib.metadata
import json
import re
import sys
from html import unescape
from pathlib import Path

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import api
import pages

pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")  # of Sphinx, about MyST
WHOLE = {"index", "04_heatmaps", "tutorials/1_heatmaps"}
TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "html"
    pages.write_pages(out, WHOLE)
    return out


def read(site, name): return (site / f"{name}.html").read_text(encoding="utf-8")
def words(html): return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).strip()


# --- the site ---

def test_every_notebook_has_a_page_and_is_in_the_navigation(site):
    names = [path.relative_to(ROOT / "nbs").with_suffix("").as_posix() for path in (ROOT / "nbs").rglob("*.ipynb")
             if not {".ipynb_checkpoints", "_runs"} & set(path.parts)]
    index = read(site, "index")
    assert len(names) > 40
    for name in names:
        assert (site / f"{name}.html").is_file()
        assert name == "index" or f'class="reference internal" href="{name}.html"' in index, f"{name} is not in the sidebar"
    for caption in ("Start", "Tutorials", "Explore", "Reports", "The library"): assert f'<span class="caption-text">{caption}</span>' in index


def test_the_navigation_has_the_order_of_the_front_page(site):
    listed = re.findall(r"^\| \[([\w/]+)\]", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    sidebar = re.findall(r'class="reference internal" href="([\w/]+)\.html"', read(site, "index").partition("All names")[2].partition("<article")[0])
    for folder in ("explore/", "analysis/", "1"):
        assert [name for name in sidebar if name.startswith(folder)] == [name for name in listed if name.startswith(folder)] != [], folder


def test_pages_need_no_network_and_are_small(site):
    for path in site.rglob("*.html"):
        html = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|source|video|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>", html), path.name
        assert path.stat().st_size < 3_000_000
    for path in site.rglob("*.css"): assert not re.search(r"url\([\"']?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_links_between_notebooks_lead_to_pages(site):
    tutorial = read(site, "tutorials/1_heatmaps")
    assert 'href="../10_metrics.html"' in tutorial and 'href="2_first_tokenizer.html"' in tutorial
    for name in WHOLE: assert not re.search(r'href="(?!https?:)[^"]*\.ipynb', read(site, name)), name


def test_reference_says_what_docments_say(site):
    "Signature, and type, default and comment of a parameter, as the source has them."
    source = (ROOT / "motion_vq" / "heatmaps.py").read_text(encoding="utf-8")
    kind, default, comment = re.search(r"^    sigma:(\w+)=([\d.]+),\s+# (softness.+)$", source, re.M).groups()
    found = re.search(r'id="motion_vq\.heatmaps\.render">.*?</table>', read(site, "04_heatmaps"), re.S)[0]
    assert f"sigma {kind} {default} {comment}" in words(found)
    assert "Draw joints as soft limbs" in words(found)
    returned = re.search(r"^\):\s+# (\(\.\.\., C, F.+)$", source, re.M)[1]
    assert f"returns {returned}" in words(found).replace("returns  ", "returns ")
    assert found.count("motion_vq.drawing.draw") == 0, "a parameter is no name of the library"
    assert 'href="#motion_vq.heatmaps.render"' in read(site, "04_heatmaps"), "a name in the text leads to its reference"


def test_reference_has_every_public_name():
    for module in ("tokens", "heatmaps", "quantize"):
        text = api.section(module)
        for name in api.names(module): assert re.search(rf"^```{{py:\w+}} {re.escape(name)}\b", text, re.M), name
    assert "Tokenizer.encode" in api.names("tokens") and not any("._" in name or name.startswith("_") for name in api.names("tokens"))


def test_reference_of_a_command_is_what_one_types():
    "Options with their defaults and help, examples line by line; a table that says nothing is not there."
    text = api.section("cli")
    assert "| `--up` | `text` | `-y` | Which way is up: -y (pictures, Panoptic), y (HumanML3D) or z. |" in text and "| `-o, --out` | `path` |" in text
    assert "~~~text\nmotion-vq info walk.npz\n" in text and "\b" not in text
    assert "| `ctx` |  |  |  |" not in text and "| `argv` |" in text


def test_reference_takes_comments_literally():
    assert api.plain("(B, C|C', F) in [0, 1]; `a|b` *2") == r"(B, C\|C', F) in \[0, 1\]; `a\|b` \*2"


def test_search_finds_words_and_names(site):
    index = json.loads((site / "searchindex.js").read_text(encoding="utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    where = index["terms"]["parabola"]
    assert index["docnames"].index("04_heatmaps") in (where if isinstance(where, list) else [where])
    assert "render" in {entry[-1] for entry in index["objects"]["motion_vq.heatmaps"]}
    assert 'src="searchindex.js' in read(site, "search"), "loaded as a script, which works from a file, too"


def test_formulas_are_drawn_by_the_browser(site):
    html = read(site, "04_heatmaps")
    text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", html, flags=re.S)
    assert html.count("<math") > 10 and "<mfrac>" in html
    assert "\\frac" not in text and "$$" not in text


def test_every_formula_is_drawn_whole():
    "No command is left over that the converter does not know."
    cells = [(path.stem, re.sub(r"`[^`]*`", "", cell.source)) for path in pages.notebooks() for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    formulas = [(name, block or inline) for name, text in cells for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.S)]
    assert len(formulas) > 200 and [(name, latex) for name, latex in formulas if "\\" in pages.mathml(latex.strip(), False)] == []
    assert "mid_hip" in pages.mathml(r"\text{mid\_hip}", True) and "<mo>arg</mo>" in pages.mathml(r"\arg\min_k x", False)


def test_hidden_cells_are_not_shown(site):
    assert "default_exp" not in read(site, "04_heatmaps") and "google.colab" not in read(site, "tutorials/1_heatmaps")
    assert "def published" not in read(site, "index")


# --- what is refused ---

def page(folder, name, body):
    (folder / name).write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def test_a_good_site_has_no_problems(tmp_path):
    page(tmp_path, "a.html", '<a href="b.html#here">b</a> <a href="https://example.org/x">x</a> <img src="i.png"> <img src="data:image/png;base64,AA">')
    page(tmp_path, "b.html", '<h1 id="here">b</h1> <a href="#here">up</a>')
    (tmp_path / "i.png").write_bytes(b"x")
    assert pages.problems(tmp_path) == []


@pytest.mark.parametrize("body, problem", [
    ('<a href="gone.html">x</a>', "gone.html leads nowhere"),
    ('<a href="#gone">x</a>', "#gone leads to no place on that page"),
    ('<img src="gone.png">', "gone.png leads nowhere"),
    ('<script src="https://cdn.example.org/x.js"></script>', "is fetched from elsewhere"),
    ('<img src="//example.org/x.png">', "is fetched from elsewhere"),
    ('<a href="htp://example.org">x</a>', "is no address"),
    ('<p>' + "x" * pages.LARGEST, "are the most"),
])
def test_problems_are_named_with_their_page(tmp_path, body, problem):
    page(tmp_path, "bad.html", body)
    found, = pages.problems(tmp_path)
    assert found.startswith("bad.html: ") and problem in found


def test_styles_from_elsewhere_are_refused(tmp_path):
    (tmp_path / "s.css").write_text('@import "https://example.org/x.css"; a { background: url(//example.org/x.png) }')
    assert len(pages.problems(tmp_path)) == 2


def test_a_broken_link_in_a_notebook_stops_the_build(tmp_path, monkeypatch):
    new = nbformat.v4
    (tmp_path / "nbs").mkdir()
    for name, text in {"index": "# i", "01_x": "# x\n\nSee [y](02_y.ipynb)."}.items():
        nbformat.write(new.new_notebook(cells=[new.new_markdown_cell(text)]), tmp_path / "nbs" / f"{name}.ipynb")
    monkeypatch.setattr(pages, "NBS", tmp_path / "nbs")
    with pytest.raises(pages.Broken, match=r"nbs/01_x\.ipynb.*02_y\.ipynb"): pages.write_pages(tmp_path / "site")
    assert not (tmp_path / "site").exists()


# --- the tutorials ---

def test_there_are_tutorials(): assert len(TUTORIALS) == 6


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_starts_anywhere(path):
    "Badges that open this very notebook, and a cell that installs on Colab alone."
    cells = nbformat.read(path, as_version=4).cells
    place, text = path.relative_to(ROOT).as_posix(), cells[0].source
    assert f"https://colab.research.google.com/github/motion-vq/motion_vq/blob/main/{place})" in text
    assert f"https://mybinder.org/v2/gh/motion-vq/motion_vq/main?urlpath=lab/tree/{place})" in text
    install = [cell for cell in cells if "install" in cell.metadata.get("tags", [])]
    assert install == [next(cell for cell in cells if cell.cell_type == "code")]
    head, _, body = install[0].source.partition('if "google.colab" in sys.modules:')
    assert head.split() == ["import", "sys"] and all(line.startswith("    ") for line in body.splitlines()[1:]), "it does nothing elsewhere"
    assert pages.configuration()["html_theme_options"]["source_repository"] in body


def brought(names):
    "The packages that come with some, themselves included, as they are installed here."
    found, left = set(), [canonicalize_name(name) for name in names]
    while left:
        if (name := left.pop()) in found: continue
        found.add(name)
        try: asked = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError: continue    # of another platform
        left += [canonicalize_name(r.name) for r in map(Requirement, asked) if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_what_a_tutorial_imports_is_there_on_colab(path):
    "Installed by its first cell, or Colab's own; and the cell leaves Colab its IPython, without which its kernel does not start again."
    install, *code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    asked = re.search(r"^    %pip install -q (.+)$", install, re.M)[1].split()
    packages = brought(name.removeprefix("./") for name in asked)
    assert "motion-vq" in packages and not packages & {"ipython", "ipykernel", "ipywidgets", "jupyterlab", "google-colab"}
    assert re.findall(r"^    %cd -q (.+)$", install, re.M) == ["/content", f"motion_vq/{path.parent.relative_to(ROOT).as_posix()}"]
    names = {name.split(".")[0] for tree in map(ast.parse, code) for node in ast.walk(tree)
             for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names] if isinstance(node, ast.Import) else [])}
    owners = importlib.metadata.packages_distributions()
    there = packages | {"matplotlib", "pandas"}
    assert [name for name in names - sys.stdlib_module_names if not there & {canonicalize_name(o) for o in owners[name]}] == []


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_short_and_stored_executed(path):
    code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code" and "install" not in cell.metadata.get("tags", [])]
    for cell in code:
        assert len(cell.source.splitlines()) < 25, cell.id
        if "print(" in cell.source: assert cell.outputs, f"{path.stem}, cell {cell.id}: not executed"


@pytest.mark.parametrize("path", sorted((ROOT / "nbs" / "explore").glob("*.ipynb")), ids=lambda path: path.stem)
def test_explorer_opens_in_binder(path):
    "And not in Colab, whose ipywidgets are older than the ones that it is drawn with."
    text = nbformat.read(path, as_version=4).cells[0].source
    assert f"https://mybinder.org/v2/gh/motion-vq/motion_vq/main?urlpath=lab/tree/{path.relative_to(ROOT).as_posix()})" in text and "colab" not in text


def test_tutorials_follow_each_other():
    for path, following in zip(TUTORIALS, TUTORIALS[1:]):
        assert f"]({following.name})" in nbformat.read(path, as_version=4).cells[-1].source, path.stem


# --- start anywhere ---

def test_binder_and_devcontainer():
    lines = (ROOT / ".binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    constraints = next(line.split()[1] for line in lines if line.startswith("-c "))
    assert (ROOT / ".binder" / constraints).resolve() == ROOT / "constraints.txt"
    assert "-e .[notebooks]" in lines and (ROOT / ".binder" / "runtime.txt").read_text() == "python-3.11\n"
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"] == "make setup" and container["image"].endswith(":3.11")
