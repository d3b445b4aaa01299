"""What a module offers, as MyST directives: for each function and class its signature and a table of its parameters, from docments."""
import ast
import importlib
import re
from pathlib import Path

import click
from fastcore.docments import docments

from motion_vq._modidx import d as INDEX


def names(module: str) -> list[str]:
    "The public functions, classes and methods of `motion_vq.MODULE`, as `Tokenizer` and `Tokenizer.encode`, in the order of the source."
    found = (symbol.removeprefix(f"motion_vq.{module}.") for symbol in INDEX["syms"].get(f"motion_vq.{module}", {}))
    trees = _trees(_source(module))
    known = {trees[name] for name in found if name in trees}
    return [name for name, node in trees.items() if node in known and not any(part.startswith("_") for part in name.split("."))]


def _source(module): return Path(importlib.import_module(f"motion_vq.{module}").__file__).read_text(encoding="utf-8")


def _trees(source):
    "The functions and classes of a module and their syntax trees, by name. What a private class of the module has, is told of the class that is made from it."
    found = {}
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)): continue
        found[node.name] = node
        if isinstance(node, ast.ClassDef):
            for base in (ast.unparse(base) for base in node.bases):
                if base.startswith("_"): found |= {f"{node.name}.{name.removeprefix(base + '.')}": inner for name, inner in found.items() if name.startswith(base + ".")}
            found |= {f"{node.name}.{inner.name}": inner for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def _parameters(node):
    "(name, type, default) of each parameter of a function, or field of a class without `__init__`; texts, empty where there is none."
    text = lambda part: "" if part is None else ast.unparse(part)
    if isinstance(node, ast.ClassDef):
        return [(field.target.id, text(field.annotation), text(field.value)) for field in node.body
                if isinstance(field, ast.AnnAssign) and not field.target.id.startswith("_")]
    args = node.args
    plain = args.posonlyargs + args.args
    given = [None] * (len(plain) - len(args.defaults)) + args.defaults
    rows = [(a.arg, text(a.annotation), text(default)) for a, default in zip(plain, given)]
    if args.vararg: rows.append((f"*{args.vararg.arg}", text(args.vararg.annotation), ""))
    rows += [(a.arg, text(a.annotation), text(default)) for a, default in zip(args.kwonlyargs, args.kw_defaults)]
    if args.kwarg: rows.append((f"**{args.kwarg.arg}", text(args.kwarg.annotation), ""))
    return rows if not rows or rows[0][0] not in ("self", "cls") else rows[1:]


def _overlooked(node, source):
    "Comments in the head of a function that docments does not see: of `*args` and `**kwargs`, and of what is returned where that has no type."
    head, found = source.splitlines()[node.lineno - 1:node.body[0].lineno - 1], {}
    for line in head:
        if star := re.match(r"\s*\*+(\w+)[^#]*#\s*(.+)$", line): found[star[1]] = star[2]
    if head and (end := re.search(r"\)[^#]*:\s*#\s*(.+)$", head[-1])): found["return"] = end[1]
    return found


def plain(text: str) -> str:
    "Text for a cell of a Markdown table: code stays code, everything else is taken literally."
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(re.sub(r"([\\*_<>\[\]{}$|~^#])", r"\\\1", part) if i % 2 == 0 else part.replace("|", r"\|") for i, part in enumerate(parts))


def _sentences(text):
    "A docstring as Markdown; a paragraph that click is told to leave as it is, is code."
    parts = [part.strip("\n") for part in text.split("\n\n")]
    return "\n\n".join("\n".join(["~~~text", *part.splitlines()[1:], "~~~"]) if part.startswith("\b\n") else plain(part) for part in parts)


def _code(text): return f"`{text}`".replace("|", r"\|") if text else ""


def _options(command):
    "The rows of the table of a command: its arguments and options as they are typed."
    return [(_code(", ".join(p.opts)), _code(p.type.name), _code(str(p.default)) if isinstance(p.default, (str, float)) or type(p.default) is int else "",
             plain(getattr(p, "help", None) or p.metavar or "")) for p in command.params]


def _entry(module, name, source):
    "The directive of one name: signature, sentence, table."
    trees, thing = _trees(source), importlib.import_module(f"motion_vq.{module}")
    for part in name.split("."): thing = getattr(thing, part)
    node = trees[name]
    is_class, is_property = isinstance(node, ast.ClassDef), isinstance(thing, property)
    called = trees.get(f"{name}.__init__", node) if is_class else node
    said = {} if is_property else {k: v for k, v in docments(thing).items() if v} | _overlooked(called, source)
    kind = ast.unparse(called.returns) if getattr(called, "returns", None) else ""
    rows, comment = _parameters(called), "" if is_class else said.get("return", "")
    signature = ", ".join(a + (f": {t}" if t else "") + (f" = {v}" if v and t else f"={v}" if v else "") for a, t, v in rows)
    head = name if is_property else f"{name}({signature})" + (f" -> {kind}" if kind else "")
    table = [(_code(a), _code(t), _code(v), plain(" ".join(said.get(a.lstrip("*"), "").split()))) for a, t, v in rows]
    if isinstance(thing, click.Command): table = _options(thing)
    if comment: table.append(("*returns*", _code(kind), "", plain(comment)))
    role = "property" if is_property else "class" if is_class else "method" if "." in name else "function"
    lines = [f"```{{py:{role}}} {head}", f":module: motion_vq.{module}", "", _sentences(ast.get_docstring(node) or ""), ""]
    if any(any(row[1:]) for row in table): lines += ["| parameter | type | default | what it is |", "|:--|:--|:--|:--|", *(f"| {' | '.join(row)} |" for row in table)]
    return "\n".join(lines + ["```", ""])


def section(module: str) -> str:
    "The reference of a module as Markdown; empty if it offers nothing."
    source = _source(module)
    entries = [_entry(module, name, source) for name in names(module)]
    return "\n".join([f"## Reference: `motion_vq.{module}`", "", *entries]) if entries else ""
