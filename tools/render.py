"""Render the notebooks without Quarto: `python tools/render.py readme` or `python tools/render.py pages`."""
import html
import posixpath
import re
import shutil
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, MarkdownExporter
from nbconvert.preprocessors import Preprocessor

ROOT = Path(__file__).parents[1]
NBS = ROOT / "nbs"
HIDDEN = re.compile(r"^#\|\s*(hide|default_exp|include:\s*false)\b", re.M)
SILENT = re.compile(r"^#\|\s*echo:\s*false\b", re.M)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


class Tidy(Preprocessor):
    "Drop the cells that are hidden, the code of those that show only their output, and nbdev's directives."

    def preprocess(self, nb, resources):
        nb.metadata.setdefault("language_info", {"name": "python"})  # the language of the code, which nbdev_clean drops
        code = lambda cell: cell.cell_type == "code"
        nb.cells = [cell for cell in nb.cells if not (code(cell) and HIDDEN.search(cell.source))]
        for cell in filter(code, nb.cells):
            if SILENT.search(cell.source): cell.metadata["transient"] = {"remove_source": True}
            cell.source = DIRECTIVE.sub("", cell.source).strip()
            cell.execution_count = None
        nb.cells = [cell for cell in nb.cells if cell.source.strip() or cell.get("outputs")]
        return nb, resources


# --- README.md ---

def from_root(match):
    "A link relative to nbs/, made relative to the project's root."
    target = posixpath.normpath(posixpath.join("nbs", match[1]))
    return f"]({target}{match[2] or ''})" if (ROOT / target).exists() else match[0]


def readme() -> dict[str, bytes]:
    "The files of the README by name: README.md and the pictures it shows."
    exporter = MarkdownExporter(preprocessors=[Tidy])
    text, resources = exporter.from_filename(
        NBS / "index.ipynb", {"unique_key": "README", "output_files_dir": "README_files"})
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.S)
    text = re.sub(r"\]\((?![a-z]+:|[#/])([^)#\s]+)(#[^)\s]*)?\)", from_root, text)
    text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M)).strip() + "\n"
    text = "<!-- Written from nbs/index.ipynb by `make readme`: change it there. -->\n\n" + text
    return {"README.md": text.encode(), **resources["outputs"]}


def write_readme():
    shutil.rmtree(ROOT / "README_files", ignore_errors=True)
    for name, data in readme().items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_bytes(data)
    print("README.md")


# --- pages ---

STYLE = """<style>
body { margin: 0 auto !important; max-width: 1240px; display: grid; grid-template-columns: 15rem minmax(0, 1fr); }
nav.pages { position: sticky; top: 0; max-height: 100vh; overflow-y: auto; padding: 1.5rem 1rem; box-sizing: border-box;
  font: 14px/1.45 system-ui, sans-serif; border-right: 1px solid #e4e4e4; }
nav.pages a { display: block; padding: .15rem .5rem; color: #333; text-decoration: none; border-radius: 4px; }
nav.pages a:hover { background: #f0f0f0; }
nav.pages a.here { background: #e8eef8; font-weight: 600; }
nav.pages b { display: block; margin: 1rem .5rem .2rem; color: #777; font-weight: 400; }
main { padding: 1rem 2rem; min-width: 0; }
main .jp-InputPrompt, main .jp-OutputPrompt, main .jp-InputCollapser, main .jp-OutputCollapser, main .jp-Collapser { display: none; }
main blockquote { border-left: 3px solid #9bb3d9; margin-left: 0; padding-left: 1rem; color: #555; }
@media (max-width: 800px) { body { display: block; } nav.pages { position: static; max-height: none; } }
</style>"""


def heading(path: Path) -> tuple[str, str]:
    "Title and subtitle of a notebook: its first `# ` and `> ` lines."
    cells = nbformat.read(path, as_version=4).cells
    lines = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown").splitlines()
    first = lambda mark: next((line[2:].strip() for line in lines if line.startswith(mark)), "")
    return first("# ") or path.stem, first("> ")


def notebooks() -> dict[Path, tuple[str, str]]:
    "Every notebook that has a page: the index, the library in reading order, the reports."
    paths = [path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts]
    key = lambda path: (path.stem != "index", len(path.relative_to(NBS).parts), path)
    return {path: heading(path) for path in sorted(paths, key=key)}


def address(path: Path) -> str:
    "Where a notebook's page lies, relative to the site."
    return path.relative_to(NBS).with_suffix(".html").as_posix()


def navigation(pages: dict, here: str) -> str:
    "The list of pages at the side."
    up = "../" * here.count("/")
    links, folder = [], "."
    for path, (title, _) in pages.items():
        page = address(path)
        if (parent := posixpath.dirname(page) or ".") != folder:
            links.append(f"<b>{html.escape(parent)}</b>")
            folder = parent
        links.append(f'<a href="{up}{page}"{" class=here" * (page == here)}>{html.escape(title)}</a>')
    if "index.html" not in map(address, pages): links.insert(0, f'<a href="{up}index.html">motion_vq</a>')
    return f'<nav class="pages">{"".join(links)}</nav>'


def contents(pages: dict):
    "A notebook that lists the others: the front page for as long as there is no index.ipynb."
    rows = [f"| [{title}]({address(path)}) | {subtitle} |" for path, (title, subtitle) in pages.items()]
    table = "\n".join(["# motion_vq", "", "| notebook | about |", "|:--|:--|", *rows])
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(table)])


def write_pages(out: Path):
    "Write the site into `out`, which is replaced."
    exporter = HTMLExporter(preprocessors=[Tidy], embed_images=True)
    pages = notebooks()
    shutil.rmtree(out, ignore_errors=True)

    def write(nb, here, title):
        body, _ = exporter.from_notebook_node(nb, {"metadata": {"name": title, "path": str(NBS / posixpath.dirname(here))}})
        body = re.sub(r'(href="(?![a-z]+:)[^"]*)\.ipynb(["#])', r"\1.html\2", body)
        body = body.replace("</head>", STYLE + "\n</head>", 1)
        body = re.sub(r"<body[^>]*>", lambda m: m[0] + "\n" + navigation(pages, here), body, count=1)
        (out / here).parent.mkdir(parents=True, exist_ok=True)
        (out / here).write_text(body, encoding="utf-8")

    for path, (title, _) in pages.items(): write(nbformat.read(path, as_version=4), address(path), title)
    if not (out / "index.html").exists(): write(contents(pages), "index.html", "motion_vq")
    print(f"{out / 'index.html'} ({len(pages)} notebooks)")


if __name__ == "__main__":
    if sys.argv[1:] == ["readme"]: write_readme()
    elif sys.argv[1:] == ["pages"]: write_pages(ROOT / "_site")
    else: sys.exit(__doc__)
