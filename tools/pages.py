"""Render the notebooks as pages for the web, from `_site/index.html` on: `python tools/pages.py`

Sphinx and MyST-NB render, furo gives the looks and the search; this prepares the notebooks, and refuses pages with broken links,
remote resources or too many bytes. Nothing is executed, and nothing is fetched."""
import io
import os
import re
import shutil
import sys
import tempfile
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import desc, pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import api
from render import NBS, ROOT, Tidy

LARGEST = 3_000_000  # bytes of a page and of the pictures on it
SECTIONS = {"Tutorials": "tutorials", "Explore": "explore", "Reports": "analysis", "The library": "."}  # caption -> folder in nbs/


class Broken(Exception): "The pages are not fit to be published; the message says which and why."


# --- what is rendered ---

def notebooks() -> list[Path]:
    "Every notebook, in reading order within its folder."
    return sorted(path for path in NBS.rglob("*.ipynb") if not {".ipynb_checkpoints", "_runs"} & set(path.parts))


def docname(path: Path) -> str:
    "What Sphinx calls a notebook."
    return path.relative_to(NBS).with_suffix("").as_posix()


def title(nb) -> str:
    "The first heading of a notebook."
    lines = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown").splitlines()
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def reading_order(books: dict) -> list[str]:
    "The names as the front page lists them; what it does not list comes last."
    text = "\n".join(cell.source for cell in books["index"].cells)
    listed = re.findall(r"^\| \[[^]]*\]\(([\w/]+)\.ipynb\)", text, re.M)
    return sorted(books, key=lambda name: listed.index(name) if name in listed else len(listed))


def contents(books: dict) -> str:
    "The tables of contents: what the sidebar shows. A folder of nbs/ that has no caption yet is shown under its own name."
    here = lambda name: name.rpartition("/")[0] or "."
    captions = {folder: caption for caption, folder in SECTIONS.items()}
    folders = [*captions, *sorted({here(name) for name in books} - set(captions))]
    tree = lambda caption, lines: "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"])
    trees = [tree("Start", ["motion_vq <self>", "All names <genindex>"])]
    for folder in folders:
        within = [name for name in reading_order(books) if here(name) == folder and name != "index"]
        shown = lambda name: name if folder == "." else title(books[name]) or name
        if within: trees.append(tree(captions.get(folder, folder), [f"{shown(name)} </{name}>" for name in within]))
    return "\n\n".join(trees)


def module_of(nb) -> str:
    "The module that a notebook is exported to; empty if to none."
    found = re.search(r"^#\|\s*default_exp\s+(\w+)", "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code"), re.M)
    return found[1] if found else ""


def prepared(nb):
    "A notebook as it is to be read: without what is hidden, with the reference of its module at the end."
    module = module_of(nb)
    nb, _ = Tidy().preprocess(nb, {})
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}  # which knows %pip and !git
    nb.cells = [cell for cell in nb.cells if "install" not in cell.metadata.get("tags", [])]
    for cell in nb.cells:
        if cell.metadata.pop("transient", {}).get("remove_source"): cell.metadata["tags"] = ["remove-input"]
    if module and (text := api.section(module)): nb.cells.append(nbformat.v4.new_markdown_cell(text))
    return nb


def write_sources(folder: Path, only=None) -> list[str]:
    """Write into `folder` what Sphinx is to read, of notebooks that are not among `only` no more than the headings;
    return the modules that are shown."""
    shutil.copytree(NBS, folder, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints", "_runs"))
    (folder / "_static").mkdir()
    (folder / "_static" / "pages.css").write_text(STYLE, encoding="utf-8")
    for name in ("LICENSE", "CITATION.cff"): shutil.copy(ROOT / name, folder.parent)
    books = {docname(path): nbformat.read(path, as_version=4) for path in notebooks()}
    modules = []
    for name, nb in books.items():
        if only is not None and name not in only: nb.cells = [nbformat.v4.new_markdown_cell(f"# {title(nb) or name}")]
        if module := module_of(nb): modules.append(module)
        nb = prepared(nb)
        if name == "index": nb.cells.append(nbformat.v4.new_markdown_cell(contents(books)))
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, folder / f"{name}.ipynb")
    return modules


# --- how it is rendered ---

def is_parameter(node) -> bool:
    "Whether a piece of code stands in the first column of a table of the reference."
    cell = node.parent.parent
    if not isinstance(cell, nodes.entry) or cell.parent.index(cell): return False
    while cell is not None and not isinstance(cell, desc): cell = cell.parent
    return cell is not None


class NamesToReference(SphinxTransform):
    "`render` in a text leads to what the reference says of it, and `07_networks` to that notebook."
    default_priority = 700

    def apply(self):
        for node in list(self.document.findall(nodes.literal)):
            where = self.config.motion_vq_names.get(node.astext().removesuffix("()"))
            if where is None or isinstance(node.parent, (nodes.reference, nodes.title, pending_xref)) or is_parameter(node): continue
            domain, kind, target = where
            node.replace_self(pending_xref("", node.deepcopy(), refdomain=domain, reftype=kind, reftarget=target,
                                           refdoc=self.env.docname, refexplicit=True, refwarn=True))


def meanings(modules: list[str]) -> dict:
    "What a code name in a text means: (domain, role, target); a name that two of the modules have means nothing."
    found = {path.stem: ("std", "doc", f"/{path.stem}") for path in notebooks() if path.parent == NBS and path.stem != "index"}
    for module in modules:
        for name in api.names(module):
            target = ("py", "obj", f"motion_vq.{module}.{name}")
            for said in (name, f"{module}.{name}", f"motion_vq.{module}.{name}"): found[said] = None if said in found else target
    return {said: target for said, target in found.items() if target}


def mathml(latex: str, block: bool) -> str:
    "LaTeX as MathML, which every browser draws by itself; where the converter draws other than TeX, it is mended."
    text = convert(re.sub(r"\\arg\b", r"\\operatorname{arg}", latex), display="block" if block else "inline")
    text = text.replace("<mo>&#x02016;</mo>", '<mo stretchy="false">&#x02016;</mo>')  # the bars of a norm, which TeX does not stretch, either
    return text.replace(r"\_", "_")


def formula(self, node):
    "A formula as a piece of a page."
    block = isinstance(node, nodes.math_block)
    text = mathml(node.astext(), block)
    self.body.append(f'<div class="math">{text}</div>' if block else text)
    raise nodes.SkipNode


STYLE = """
@media (min-width: 82em) { .content { width: min(58em, calc(100vw - 38em)); } }  /* beside it: the two sidebars */
div.highlight pre { font-size: .75rem; }
table.docutils { font-size: .85rem; }
dl.py table.docutils { width: 100%; }
math { font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", "DejaVu Math TeX Gyre", "Noto Sans Math", math; }  /* fonts that know where an index stands */
div.math { overflow-x: auto; padding: .25rem 0; }
div.cell_output { overflow-x: auto; }
div.cell_output img { background: white; border-radius: 4px; }
div.cell_output table { font-size: .8rem; border: none; border-collapse: collapse; }
div.cell_output table :is(th, td) { padding: .2rem .5rem; text-align: right; border: none; border-bottom: 1px solid var(--color-table-border); }
"""


def configuration(modules=()) -> dict:
    "What Sphinx is told; facts of the project are read from settings.ini."
    cfg = ConfigParser(delimiters=["="], interpolation=None)
    cfg.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = cfg["DEFAULT"]
    return dict(
        project=cfg["title"], author=cfg["author"], copyright=cfg["copyright"], version=cfg["version"], release=cfg["version"],
        extensions=["myst_nb", __name__], html_static_path=["_static"], html_theme="furo", html_title=cfg["title"], html_math_renderer="mathml",
        html_copy_source=False, html_show_sourcelink=False, html_show_sphinx=False,
        html_theme_options=dict(source_repository=cfg["git_url"], source_branch=cfg["branch"], source_directory="nbs/"),
        myst_enable_extensions=["dollarmath"], myst_heading_anchors=4, nb_execution_mode="off", nb_merge_streams=True, nb_ipywidgets_js={}, nb_render_markdown_format="myst",
        nb_mime_priority_overrides=[("html", "application/vnd.jupyter.widget-view+json", None)],
        add_module_names=False, python_maximum_signature_line_length=100, toc_object_entries_show_parents="hide",
        exclude_patterns=["**.md"], smartquotes=False, motion_vq_names=meanings(modules))


def setup(app):
    "What Sphinx has to know besides: this module is an extension of it."
    app.add_config_value("motion_vq_names", {}, "env")
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
    app.add_transform(NamesToReference)
    app.add_css_file("pages.css")  # a page that is opened as a file may not read others, so its search shows titles alone
    app.add_js_file(None, body='if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;')


def render(source: Path, out: Path, state: Path, modules: list[str]):
    "Run Sphinx; a warning is an error."
    said = io.StringIO()
    Sphinx(source, None, out, state, "html", configuration(modules), status=None, warning=said, freshenv=True).build()
    if text := re.sub(r"\x1b\[[\d;]*m", "", said.getvalue()).strip(): raise Broken(text.replace(f"{source}/", "nbs/"))


# --- whether it is fit to be published ---

LINKS = {"a": "href", "img": "src", "script": "src", "link": "href", "source": "src", "video": "src", "audio": "src", "iframe": "src",
         "object": "data", "embed": "src"}


class Page(HTMLParser):
    "What a page has: places that can be linked to, and links as (tag, address)."
    def __init__(self, path):
        super().__init__()
        self.places, self.links, self.size = set(), [], path.stat().st_size
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        link = attrs.get(LINKS.get(tag))
        if link is not None and not link.startswith("data:"): self.links.append((tag, link))


def fault(path, tag, link, pages):
    "What is wrong with a link on the page at `path`, in words; None if nothing."
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        if tag != "a": return "is fetched from elsewhere"
        return None if parts.scheme == "mailto" or parts.scheme in ("http", "https") and parts.netloc else "is no address"
    target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
    if not target.is_file(): return "leads nowhere"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places: return "leads to no place on that page"
    if tag == "img": pages[path].size += target.stat().st_size


def problems(site: Path) -> list[str]:
    "Links that lead nowhere, resources that are not part of the site, and pages that are too large: one sentence each, with the page's name."
    pages, wrong = {path: Page(path) for path in sorted(site.rglob("*.html"))}, []
    for path, page in pages.items():
        name = path.relative_to(site).as_posix()
        wrong += [f"{name}: {link} {said}" for tag, link in page.links if (said := fault(path, tag, link, pages))]
        if page.size > LARGEST: wrong.append(f"{name}: {page.size:,} bytes with its pictures, and {LARGEST:,} are the most: store smaller pictures in the notebook")
    for sheet in sorted(site.rglob("*.css")):
        wrong += [f"{sheet.relative_to(site).as_posix()}: {found} is fetched from elsewhere"
                  for found in re.findall(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')]+)", sheet.read_text("utf-8"))]
    return wrong


def write_pages(out: Path, only=None) -> list[Path]:
    "Write the site into `out`, which is replaced if all of it is well; return its pages."
    with tempfile.TemporaryDirectory() as folder:
        source, site = Path(folder).resolve() / "nbs", Path(folder).resolve() / "site" / "html"
        render(source, site, Path(folder) / "state", write_sources(source, only))
        if wrong := problems(site): raise Broken("\n".join(wrong))
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(site, out, ignore=shutil.ignore_patterns(".buildinfo*", "objects.inv"))
    return sorted(out.rglob("*.html"))


if __name__ == "__main__":
    try: pages = write_pages(ROOT / "_site")
    except Broken as e: sys.exit(f"{e}\nnothing was written")
    print(f"{ROOT / '_site' / 'index.html'} ({len(pages)} pages)")
