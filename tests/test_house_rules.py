"""Rules of the house that a reader relies on: small files, short functions, stated names, no unsafe loading."""

import ast
import re

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "atomml").rglob("*.py"))
MOST_LINES, LONGEST_FUNCTION = 500, 80
PUBLIC = [path for path in FILES if path.stem == "__init__" or not path.stem.startswith("_")]
UNSAFE = re.compile(
    r"\bpickle\.loads?\b|\bimport pickle\b|\btorch\.load\b|allow_pickle\s*=\s*True|\byaml\.load\(|"
    r"(?<![\w.])(?:eval|exec)\("
)


def name_of(path):
    return str(path.relative_to(ROOT))


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_there_is_something_to_check():
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_can_be_checked_by_eye(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES
    long = {f.name: size for f in functions(path) if (size := f.end_lineno - f.lineno + 1) > LONGEST_FUNCTION}
    assert not long


@pytest.mark.parametrize("path", PUBLIC, ids=name_of)
def test_public_modules_state_their_public_names(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "a module says what it is for"
    stated = [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and any(
            isinstance(target, ast.Name) and target.id == "__all__"
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        )
    ]
    holds_names = any(not isinstance(node, ast.Expr | ast.ImportFrom) for node in tree.body)
    assert stated or not holds_names


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_loaded_that_can_execute_code(path):
    found = [
        f"line {k}: {line.strip()}"
        for k, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNSAFE.search(line)
    ]
    assert not found


def test_the_rule_would_notice_an_unsafe_load():
    for line in ("pickle.load(f)", "torch.load(p)", "np.load(p, allow_pickle=True)", "yaml.load(text)"):
        assert UNSAFE.search(line)
    for line in ("yaml.safe_load(text)", "np.load(p, allow_pickle=False)", "module.eval()"):
        assert not UNSAFE.search(line)
