"""What is changed to port a handler, computed from the sources."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

HERE = Path(__file__).parent

Definition: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Edit(NamedTuple):
    """A handler as it was and as it is now, and what is not the same."""

    before: str
    after: str
    changed: str
    """The lines that go, each with a minus, and those that come, with a plus."""


def edit(original: str, ported: str, name: str) -> Edit:
    """The edit of the handler `name`; the files are named from this folder."""
    before = handler_source(HERE / original, name)
    after = handler_source(HERE / ported, name)
    _, _, *lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), n=0)
    changed = (line for line in lines if not line.startswith("@@") and line[1:].strip())
    return Edit(before, after, "".join(changed))


def handler_source(path: Path, name: str) -> str:
    """A class, a function or one method of a class, below the imports that it uses."""
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    owner, _, method = name.partition(".")
    found = definition(tree, owner)
    nodes: list[ast.AST] = [found]
    spans = [span(found)]
    if method:
        assert isinstance(found, ast.ClassDef)
        inner = definition(found, method)
        nodes = [*found.bases, *found.decorator_list, inner]
        spans = [(spans[0][0], span(found.body[0])[0] - 1), span(inner)]
    used = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)}
    imports = "".join(f"{line}\n" for line in imports_of(tree, used))
    lines = source.splitlines(True)
    body = "".join(line for first, last in spans for line in lines[first - 1 : last])
    return f"{imports}\n\n{body}" if imports else body


def definition(within: ast.Module | ast.ClassDef, name: str) -> Definition:
    """The class or function of that name."""
    (found,) = (n for n in within.body if isinstance(n, Definition) and n.name == name)
    return found


def imports_of(tree: ast.Module, used: set[str]) -> Iterator[str]:
    """The imports, cut to the names that are used."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [a for a in node.names if (a.asname or a.name.partition(".")[0]) in used]
            if node.names:
                yield ast.unparse(node)


def span(node: ast.stmt) -> tuple[int, int]:
    """The numbers of the first line, which may be a decorator's, and of the last."""
    decorators = node.decorator_list if isinstance(node, Definition) else []
    assert node.end_lineno is not None
    return min([node.lineno, *(d.lineno for d in decorators)]), node.end_lineno
