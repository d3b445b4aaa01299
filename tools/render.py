"""Write README.md from nbs/index.ipynb, without Quarto: `python tools/render.py readme`; pages.py renders the pages."""
import posixpath
import re
import shutil
import sys
from pathlib import Path

from nbconvert import MarkdownExporter
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


if __name__ == "__main__":
    if sys.argv[1:] == ["readme"]: write_readme()
    else: sys.exit(__doc__)
