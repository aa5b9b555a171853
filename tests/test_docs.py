"""The documentation tells the truth: links, commands, configurations and Python in it are checked.

A YAML block is a configuration that must validate as it is when the line before it is
``<!-- config: train -->`` (or finetune, tdn, tdn_paper), and no configuration after ``<!-- config: none -->``;
any other is taken for a part of a training configuration and is validated together with the rest of one.
"""

import ast
import importlib
import re
import shlex
from typing import NamedTuple

import pytest
import typer
import yaml

from atomml.cli import main as cli
from atomml.cli.config import Kind, kind_of, model_of
from atomml.config import parse_config
from tests.conftest import ROOT

FOLDERS = ("docs", "data", "examples", "atomml")
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("train/*.md"), *(p for f in FOLDERS for p in (ROOT / f).rglob("*.md"))]
)
MODULES = sorted((ROOT / "atomml").rglob("*.py"))
RECIPES = sorted([*ROOT.glob("train/*.yaml"), *ROOT.glob("atomml/assets/*.yaml")])
LINK = re.compile(r"!?\[[^\]\[]*\]\(([^()\s]+)\)")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- config: (\w+) -->\s*\Z")
INLINE = re.compile(r"`(atomml [a-z][^`\n]*)`")
COMPLETE = {"run_dir": "runs/x", "data": {"train": "x.extxyz"}, "model": {"kind": "tdn"}, "epochs": 1}


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    mark: str | None


def name_of(path):
    return str(path.relative_to(ROOT))


def blocks(page):
    text = page.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        mark = MARK.search(text[: match.start()])
        yield Block(match[1], match[2], mark[1] if mark else None)


def prose(page):
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """GitHub's anchors of the headings of a page."""
    headings = re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower().replace("`", "")).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    broken = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def commands_in(text):
    """Words of every atomml command in a shell block, without prompts, variables, redirections and comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for piece in re.split(r"\s(?:&&|\|\||\||;)\s", line):
            try:
                words = shlex.split(piece.removeprefix("$ "), comments=True)
            except ValueError:  # a line of output with an odd quote
                continue
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words.pop(0)
            if words[:1] == ["torchrun"] and "atomml.cli.main" in words:
                words = ["atomml", *words[words.index("atomml.cli.main") + 1 :]]
            if words[:1] != ["atomml"]:
                continue
            end = next((k for k, w in enumerate(words) if re.match(r"\d?>", w)), len(words))
            yield words[1:end]


def shell_blocks(page):
    return [b.text for b in blocks(page) if b.language in ("", "sh", "bash", "shell", "console")]


def parse(command, words):
    """Parse a command line as the program would, without running it; raises what the user would see."""
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        parse(command.commands[words[0]], words[1:])
        return
    try:
        command.make_context(command.name, list(words))
    except SystemExit:
        return
    except Exception as error:
        if type(error).__name__ != "Exit":  # --help and --version end here
            message = getattr(error, "format_message", lambda: str(error))()
            raise AssertionError(f"atomml {command.name} {shlex.join(words)}: {message}") from error


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_blocks_exist_with_their_options(page):
    program = typer.main.get_command(cli.app)
    for text in shell_blocks(page):
        for words in commands_in(text):
            parse(program, words)


def test_the_checker_notices_what_does_not_exist():
    program = typer.main.get_command(cli.app)
    text = "FOO=1 atomml train a.yaml --nosuch\natomml trian a.yaml\natomml md\natomml schema nothing\n"
    found = list(commands_in(text))
    assert len(found) == 4
    for words in found:
        with pytest.raises(AssertionError):
            parse(program, words)
    good = (
        "$ torchrun --nproc-per-node 2 -m atomml.cli.main train a.yaml --resume > log 2>&1\natomml --version"
    )
    for words in commands_in(good):
        parse(program, words)


@pytest.mark.parametrize("path", [*PAGES, *MODULES], ids=name_of)
def test_commands_mentioned_in_prose_and_messages_exist(path):
    program = typer.main.get_command(cli.app)
    text = prose(path) if path.suffix == ".md" else path.read_text(encoding="utf-8")
    for mention in INLINE.findall(text):
        command, words = program, mention.split()[1:]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, mention
            command = command.commands[words.pop(0)]
        known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        options = {w.partition("=")[0] for w in words if w.startswith("-")}
        assert options <= known, mention


def merged(base, part):
    out = dict(base)
    for key, value in part.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if both else value
    return out


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configurations_validate(page):
    for block in blocks(page):
        if block.language not in ("yaml", "yml") or block.mark == "none":
            continue
        data = yaml.safe_load(block.text)
        if block.mark is not None:
            kind = Kind(block.mark)
        else:
            kind = Kind.finetune if {"e0", "freeze"} & data.keys() else Kind.train
            base = {k: v for k, v in COMPLETE.items() if kind is Kind.train or k != "model"}
            data = merged(base, data)
        parse_config(model_of(kind), data, where=f"{name_of(page)}\n{block.text}")


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipes_validate(path):
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    parse_config(model_of(kind_of(data)), data, where=name_of(path))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles_and_its_imports_exist(page):
    for block in blocks(page):
        if block.language not in ("python", "py"):
            continue
        tree = ast.parse(block.text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("atomml"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_every_guide_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "docs")
        assert path.name == "README.md" or path.parts[0] == "dev" or f"({path})" in index, path


def table_after(page, marker):
    """Cells of the table that follows a comment in a page."""
    text = page.read_text(encoding="utf-8").partition(f"<!-- {marker} -->")[2].lstrip()
    lines = text.partition("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize("marker", ["factors: fused", "factors: groups"])
def test_the_tables_of_factors_are_those_of_the_files(marker):
    from atomml.kernels.cp_factors import factor_files, read_factors

    files = [(path, read_factors(path)) for path in factor_files()]
    shown, shipped = {}, {}
    for cells in table_after(ROOT / "docs/guides/networks.md", marker):
        published = "7L²" in cells[2]
        fused = marker.endswith("fused")
        rank, error = (cells[2].split()[0], cells[3]) if fused else (cells[3], cells[4])
        shown[int(cells[0]), cells[1], int(rank), published] = float(error)
    for path, f in files:
        if (f.grouping == "fused") == marker.endswith("fused"):
            name = f.kind if f.grouping == "fused" else f.grouping
            shipped[f.lmax, name, f.rank, path.stem.endswith("7L2")] = f.error
    assert shown.keys() == shipped.keys()
    for key, error in shown.items():
        assert error == pytest.approx(shipped[key], rel=0.35), key
