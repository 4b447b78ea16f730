"""What docs, README and docstrings name is there: modules, their names, files, links, equations, configs."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p4d_jax import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
CODE = ("p4d_jax", "configs", "benchmarks", "tools")
OTHERS = ("tests", "launch", "colabs", "examples", "docs")
SOURCES = sorted(path for top in CODE for path in (ROOT / top).rglob("*.py"))
FILES = {
    path.relative_to(ROOT).as_posix()
    for top in CODE + OTHERS
    for path in (ROOT / top).rglob("*")
    if path.is_file()
}
CONFIGS = sorted(path for path in FILES if re.fullmatch(r"(p4d_jax/)?configs/[a-z]\w*\.py", path))
EQUATION = r"docs/concepts/(\w+)\.md,\s+Eq\.\s+(\d+\.\d+)(?:\s+(?:to|and)\s+(\d+\.\d+))?"
ENDINGS = (
    "py md sh ipynb npz npy pkl pth png jpg mp4 webm mov json jsonl csv html ply obj glb stablehlo tflite"
)
FILE = rf"\.({'|'.join(ENDINGS.split())})$"
# First parts of names that are not ours: packages, and variables of an example.
OTHERS_NAMES = {"cls", "clips", "collections", "copyreg", "flax", "functools", "grain", "jax", "jnp", "made"}
OTHERS_NAMES |= {"mesh", "ml_collections", "numpy", "params", "scipy", "skimage", "tfds", "torch"}
DEFINITIONS = (ast.ClassDef, ast.FunctionDef)
SECTION = r"docs/concepts/(\w+)\.md,\s+(\d+\.\d+)"


@functools.cache
def names() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Names of each module and attributes of each class, by their last part: `step`, `GenHead`."""
    modules: dict[str, set[str]] = {}
    classes: dict[str, set[str]] = {}

    def bound(body: list[ast.stmt]) -> set[str]:
        """What statements bind, without what is inside of functions and classes."""
        found = set()
        for statement in body:
            if isinstance(statement, DEFINITIONS):
                found.add(statement.name)
                continue
            for part in ast.walk(statement):
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    found.add(part.id)
                elif isinstance(part, ast.ImportFrom):
                    found |= {alias.asname or alias.name for alias in part.names}
                elif isinstance(part, ast.Constant) and str(part.value).isidentifier():
                    found.add(part.value)  # a table of names that are imported when they are first used
        return found

    modules["p4d_jax"] = {"configs"}  # where setup.py installs them
    for path in SOURCES:
        tree, lines = parse(path), path.read_text().splitlines()
        parts = path.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        modules.setdefault(parts[-1], set()).update(bound(tree.body))
        for up, part in zip(parts[-2::-1], parts[:0:-1], strict=False):
            modules.setdefault(up, set()).add(part)
        for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            stored = re.findall(r"self\.(\w+)[^=\n]* = ", "\n".join(lines[node.lineno : node.end_lineno]))
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            classes.setdefault(node.name, set()).update(bound(node.body), stored, bases)
    return modules, classes


def resolves(dotted: str) -> bool:
    """Whether `a.b.c` is there, from a module of any room or a class on.

    `p4d` is the package, and `avatar.drive` speaks of an `Avatar`.
    """
    modules, classes = names()
    first, *rest = dotted.split(".")
    known = modules.get(first, set()) | classes.get(first, set()) | classes.get(first.title(), set())
    if first == "p4d":
        return resolves(f"p4d_jax.{'.'.join(rest)}")
    if first in OTHERS_NAMES or any(has_field(dotted, config_fields(config)) for config in CONFIGS):
        return True
    if first not in modules and first not in classes and first.title() not in classes:
        return not rest
    if not rest:
        return True
    if rest[0] not in known:
        inherited = set().union(*(classes.get(base, set()) for base in classes.get(first, set())))
        return rest[0] in inherited or rest[0] in {"apply", "init", "replace"}
    ours = rest[0] in modules or rest[0] in classes
    return resolves(".".join(rest)) if ours else True


@functools.cache
def config_fields(path: str) -> frozenset[str]:
    return frozenset(main.field_names(main.load_config(ROOT / path)))


def has_field(name: str, fields: frozenset[str]) -> bool:
    return name in fields or any(field.startswith(name + ".") for field in fields)


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(path: Path) -> str:
    def of(node: ast.AST) -> list[str]:
        inner = [text for child in node.body if isinstance(child, DEFINITIONS) for text in of(child)]
        return [ast.get_docstring(node) or "", *inner]

    return "\n".join(of(parse(path)))


def text_of(path: Path) -> str:
    return path.read_text() if path.suffix == ".md" else docstrings(path)


def backticked(text: str) -> list[str]:
    """What stands in single backticks, outside of blocks."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def report(wrong: list[str]) -> None:
    assert not wrong, "\n".join(["", *wrong])


def test_names_are_there():
    """`module.name`, `Class.attribute`, `room/file.py` in backticks, and `python -m module`."""
    wrong = []
    for path in [*PAGES, *SOURCES]:
        text = text_of(path)
        found = backticked(text)
        tokens = [token.split("(")[0].split("=")[0].strip() for token in found]
        spelled = [t if re.search(FILE, t) or "." not in t else t.replace("/", ".") for t in tokens]
        dotted = [token for token in spelled if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", token)]
        dotted = [token for token in dotted if not (token.startswith("config.") or re.search(FILE, token))]
        dotted += re.findall(r"python -m ((?:p4d_jax|benchmarks|tools)(?:\.\w+)*)", text)
        dotted += re.findall(r"(?:from|import) (p4d_jax(?:\.\w+)+)", text)
        wrong += [f"{path.relative_to(ROOT)}: {token}" for token in dotted if not resolves(token)]
        scripts = [token for token in tokens if re.fullmatch(r"[\w./]+\.(py|sh|sbatch|ipynb)", token)]
        scripts += re.findall(r"(?:pytest|bash|sbatch|python) +((?:\w+/)+\w+\.(?:py|sh|sbatch))", text)
        scripts = [script for script in scripts if not script.endswith("X.py")]
        for script in scripts:
            if script not in FILES and not any(file.endswith("/" + script) for file in FILES):
                wrong.append(f"{path.relative_to(ROOT)}: {script}")
    report(wrong)


def test_links_and_pictures_are_there():
    wrong = []
    for path in PAGES:
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"https?:|mailto:", link):
                continue
            target, _, anchor = link.partition("#")
            file = (path.parent / target).resolve() if target else path
            if not file.exists():
                wrong.append(f"{path.relative_to(ROOT)}: {link}")
            elif anchor and file.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
                if anchor not in slugs:
                    wrong.append(f"{path.relative_to(ROOT)}: {link}")
    report(wrong)


def test_pages_and_equations_that_code_cites_are_there():
    wrong = []
    tests = sorted((ROOT / "tests").glob("*.py"))
    for path in [*SOURCES, *tests, *PAGES]:
        text = path.read_text()
        where = path.relative_to(ROOT)
        wrong += [
            f"{where}: {page}" for page in re.findall(r"\bdocs/[\w/]+\.(?:md|png)", text) if page not in FILES
        ]
        for page, *numbers in re.findall(EQUATION, text):
            content = (ROOT / f"docs/concepts/{page}.md").read_text()
            wrong += [f"{where}: {page}.md, Eq. {n}" for n in numbers if n and f"Eq. {n}" not in content]
        for page, number in re.findall(SECTION, text):
            if f"## {number} " not in (ROOT / f"docs/concepts/{page}.md").read_text():
                wrong.append(f"{where}: {page}.md, {number}")
    report(wrong)


def test_equations_are_numbered_once():
    for page in (ROOT / "docs/concepts").glob("*.md"):
        text = page.read_text()
        numbers = re.findall(r"(?:\*\*|\| )Eq\. (\d+\.\d+)(?:\*\*| \|)", text)
        assert len(numbers) == len(set(numbers)), page.name
        chapter = re.match(r"# (\d+) ", text)
        assert not numbers or {number.split(".")[0] for number in numbers} == {chapter[1]}, page.name


def test_commands_name_configs_and_their_fields():
    """Each --config.field of a command is a field of its config; alone in backticks, of some config."""
    wrong = []
    for path in PAGES:
        text = path.read_text().replace("\\\n", " ")
        where = path.relative_to(ROOT)
        for line in text.splitlines():
            config = re.search(r"--config=([\w/]+\.py)|launch/\S+ .*?(configs/\w+\.py)", line)
            used = re.findall(r"--config\.([a-z][\w.]*\w)", line)
            if config and re.search(r"/[A-Z]+\.py", line):  # stands for any config
                continue
            name = config and (config[1] or config[2])
            if command := re.search(r"\bp4d ([a-z_]\w*)(?= --|$)", line):
                name = f"configs/{command[1]}.py"
                used += re.findall(r" --(?!config|workdir|help|process|coordinator)([a-z][\w.]*\w)", line)
            homes = [file for file in CONFIGS if name is None or file in (name, f"p4d_jax/{name}")]
            if not homes:
                wrong.append(f"{where}: no {name}")
            for field in set(used) - {"field"}:
                if homes and not any(has_field(field, config_fields(home)) for home in homes):
                    wrong.append(f"{where}: --config.{field} ({name or 'any config'})")
        for field in backticked(text):
            if (match := re.fullmatch(r"config\.([a-z][\w.]*\w)(=.*)?", field)) and not any(
                has_field(match[1], config_fields(home)) for home in CONFIGS
            ):
                wrong.append(f"{where}: {field}")
    report(wrong)


@pytest.mark.parametrize("text", ["genhead.synthesis.nothing", "GenHead.fly", "p4d_jax.nowhere"])
def test_a_name_that_is_not_there_is_found_out(text):
    assert not resolves(text)


def test_the_site_builds_without_a_warning(tmp_path):
    """Every page is in its navigation, every link and every docstring that it shows is there.

    Not with --quiet, which keeps warnings from --strict too.
    """
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "from_photo" in (tmp_path / "reference/docstrings.html").read_text()
