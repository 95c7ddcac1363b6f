"""The built-in text to classify: which kind of Python statement comes next, from the code before it.

From the standard library's own sources, split by file, every kind equally often. A classifier has to read the code: the
statement itself is not shown, and files of the test are never trained on. One in eight is chance.
"""

import ast
import hashlib
import json
import warnings
from collections.abc import Iterator

from filelock import FileLock

from lightsleeper.data.documents import Document, Documents
from lightsleeper.errors import UserError
from lightsleeper.files import cache_folder, content_hash, write_json

KINDS = ("assign", "call", "def", "for", "if", "raise", "return", "try")
VERSION = 1

_NODES: dict[type[ast.AST], str] = {
    ast.Assign: "assign",
    ast.FunctionDef: "def",
    ast.For: "for",
    ast.If: "if",
    ast.Raise: "raise",
    ast.Return: "return",
    ast.Try: "try",
}

Row = tuple[str, str, str]
"""Text, label and group: the code before a statement, its kind, its file."""


def statement_rows(
    documents: Documents, context_bytes: int, sizes: dict[str, int], fractions: tuple[float, float]
) -> dict[str, list[Row]]:
    """Rows by part, about ``sizes[part]`` of them, equally many of each kind; made once and kept in the cache.

    ``fractions``: of the files, for validation and test. Raises UserError where there are too few statements.
    """
    spec = {"version": VERSION, "documents": documents.hash, "bytes": context_bytes, "sizes": sizes, "of": fractions}
    folder = cache_folder("statements")
    path = folder / f"{content_hash(spec)}.json"
    with FileLock(folder / f"{path.stem}.lock"):
        if not path.exists():
            parts = documents.split(*fractions)
            rows = {part: balanced(parts[part], context_bytes, size // len(KINDS)) for part, size in sizes.items()}
            write_json(path, rows)
    try:
        return {part: [tuple(row) for row in rows] for part, rows in json.loads(path.read_text("utf-8")).items()}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). Delete it to make it again.") from None


def balanced(documents: tuple[Document, ...], context_bytes: int, each: int) -> list[Row]:
    """At most ``each`` statements of every kind, equally many, spread over the files by the hash of their text."""
    found: dict[str, dict[str, Row]] = {kind: {} for kind in KINDS}
    for document in documents:
        for text, kind in statements(document.content, context_bytes):
            key = hashlib.sha256(f"{kind} {text}".encode()).hexdigest()
            found[kind].setdefault(key, (text, kind, document.name))
    each = min(each, *(len(rows) for rows in found.values()))
    if each < 1:
        rare = min(found, key=lambda kind: len(found[kind]))
        raise UserError(f"these files hold no statement of kind '{rare}': name other data.")
    chosen = [(key, row) for rows in found.values() for key, row in sorted(rows.items())[:each]]
    return [row for _, row in sorted(chosen)]


def statements(source: bytes, context_bytes: int) -> Iterator[tuple[str, str]]:
    """(code before it, kind) of every statement of KINDS; nothing for a file that this Python cannot parse."""
    source = source.replace(b"\r\n", b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the library's own escapes
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    lines = [0]
    for line in source.split(b"\n"):
        lines.append(lines[-1] + len(line) + 1)
    for node in ast.walk(tree):
        kind = _NODES.get(type(node))
        if kind is None and isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            kind = "call"
        if kind is None or not isinstance(node, ast.stmt):
            continue
        start = lines[node.lineno - 1] + node.col_offset
        if source[start : start + 4] == b"elif":  # to the parser an `if`
            continue
        before = source[max(start - context_bytes, 0) : start]
        if before.strip():
            yield before.decode("utf-8", errors="ignore"), kind  # the cut may fall into a character
