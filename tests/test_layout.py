"""Files and functions stay small enough to be read at once."""

import ast
import io
import tokenize
from pathlib import Path

import grawa

LIBRARY = Path(grawa.__file__).parent

MOST_LINES = 200
"""Of code in a file: docstrings, comments and blank lines are not counted."""

MOST_IN_A_FUNCTION = 40
"""Lines of a function, without its docstring."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    """The lines that hold code."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docstrings |= set(range(node.lineno, (node.end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def test_no_file_is_long() -> None:
    found = {str(path): code_lines(path.read_text()) for path in LIBRARY.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines > MOST_LINES} == {}


def test_no_function_is_long() -> None:
    long: dict[str, int] = {}
    for path in LIBRARY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                body = node.body[ast.get_docstring(node) is not None :]
                lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > MOST_IN_A_FUNCTION:
                    long[f"{path} {node.name}"] = lines
    assert long == {}
