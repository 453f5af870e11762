"""Sizes that can be taken in at a glance: how long functions and modules may be, and how many parameters there are."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / "brac_plus_tf"
LONGEST_FUNCTION, LONGEST_MODULE, MOST_PARAMETERS = 40, 300, 8
# Present offenders, to be mended: an entry that is none any more fails the test.
ALLOWED: set[str] = set()

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> list[tuple[str, Function]]:
    """Every function of a module with its qualified name: methods and functions within functions, too."""
    found: list[tuple[str, Function]] = []

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            named = isinstance(child, Function | ast.ClassDef)
            name = f"{prefix}{child.name}" if named else prefix
            if isinstance(child, Function):
                found.append((name, child))
            visit(child, f"{name}." if named else prefix)

    visit(tree, "")
    return found


def parameters(function: Function) -> int:
    """How many arguments a caller may give: neither self nor cls, *args and **kwargs one each."""
    given = function.args
    names = [argument.arg for argument in (*given.posonlyargs, *given.args)]
    more = (*given.kwonlyargs, *filter(None, (given.vararg, given.kwarg)))
    return len(names) - (names[:1] in (["self"], ["cls"])) + len(more)


def offenders(package: pathlib.Path) -> dict[str, str]:
    """What is too large, and how large it is. Constructors in agents/ may take more: an agent is its components."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        module, text = str(path.relative_to(package)), path.read_text()
        if (lines := len(text.splitlines())) > LONGEST_MODULE:
            found[module] = f"{lines} lines"
        for name, function in functions(ast.parse(text)):
            assert function.end_lineno is not None
            if (lines := function.end_lineno - function.lineno + 1) > LONGEST_FUNCTION:
                found[f"{module}: {name}"] = f"{lines} lines"
            if parameters(function) > MOST_PARAMETERS and not (module.startswith("agents/") and "__init__" in name):
                found[f"{module}: {name}"] = f"{parameters(function)} parameters"
    return found


def test_nothing_is_too_large():
    found = offenders(PACKAGE)
    assert {place: size for place, size in found.items() if place not in ALLOWED} == {}
    assert ALLOWED - set(found) == set(), "these are mended: take them off the list"


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("runs/a.py", "x = 1\n" * 300, {}),
        ("runs/a.py", "x = 1\n" * 301, {"runs/a.py": "301 lines"}),
        ("runs/a.py", "def f():\n" + "    x = 1\n" * 39, {}),
        ("runs/a.py", "def f():\n" + "    x = 1\n" * 40, {"runs/a.py: f": "41 lines"}),
        ("runs/a.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 40, {"runs/a.py: A.f": "41 lines"}),
        ("runs/a.py", "class A:\n    def f(self, a, b, c, d, e, f, g, h): ...", {}),
        ("runs/a.py", "def f(a, b, c, d, e, f, g, h, i): ...", {"runs/a.py: f": "9 parameters"}),
        ("runs/a.py", "def f(a, /, b, *c, d, e, f, g, h, **i): ...", {"runs/a.py: f": "9 parameters"}),
        ("runs/a.py", "if True:\n    async def f(a, b, c, d, e, f, g, h, i): ...", {"runs/a.py: f": "9 parameters"}),
        ("runs/a.py", "def g():\n    def f(a, b, c, d, e, f, g, h, i): ...", {"runs/a.py: g.f": "9 parameters"}),
        ("agents/a.py", "class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...", {}),
        (
            "runs/a.py",
            "class A:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...",
            {"runs/a.py: A.__init__": "9 parameters"},
        ),
        ("agents/a.py", "def f(a, b, c, d, e, f, g, h, i): ...", {"agents/a.py: f": "9 parameters"}),
    ],
)
def test_an_offender_is_found(tmp_path, module, source, expected):
    path = tmp_path / module
    path.parent.mkdir()
    path.write_text(source)
    assert offenders(tmp_path) == expected
