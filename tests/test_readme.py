"""What the README, the solutions and the scripts tell a user to type exists, and where they show what comes out, that comes out."""

import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mutations

ROOT = Path(__file__).parent.parent
SCRIPTS = ["sandbox.py", "augment.py", "rewards.py", "policy.py", "sft.py", "bigrpo.py", "evaluate.py", "toy.py"]
README, SOLUTIONS, DEMO = ((ROOT / name).read_text() for name in ("README.md", "SOLUTIONS.md", "results/demo/README.md"))


def commands():
    """The `python x.py ...` and `torchrun x.py ...` lines of the pages and of the scripts' docstrings."""
    texts = [README, SOLUTIONS, DEMO] + [(ROOT / name).read_text().split('"""')[1] for name in SCRIPTS]
    for line in "\n".join(texts).splitlines():
        for match in re.findall(r"(?:python|torchrun)(?: --\w+ \d+)* ((?:tools/|tests/)?\w+\.py(?: [^`#|]*)?)", line):
            yield re.split(r"\s{2,}", match.strip())[0]


def console():
    """(command, output) of the pages' console blocks, in order; a command that ends in <<'EOF' goes on to the line EOF."""
    for block in re.findall(r"```console\n(.*?)```", README + SOLUTIONS, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            here = part.split("\n", 1)[0].endswith("<<'EOF'")
            head, end, output = part.partition("\nEOF\n" if here else "\n")
            yield head + end, output


def typed(command: str, folder: Path) -> str:
    """What a command prints. Python from standard input runs in this process, which has imported what is slow to import."""
    first, _, code = command.partition("\n")
    if first != "python - <<'EOF'":
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(["bash", "-c", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code.removesuffix("EOF\n"), {})
    return out.getvalue()


def test_what_the_pages_type_gives_what_they_show(tmp_path, monkeypatch):
    for name in [*SCRIPTS, "tools"]:
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    blocks = list(console())
    assert len(blocks) > 10
    for command, output in blocks:
        assert typed(command, tmp_path).rstrip() == output.rstrip(), command


@pytest.mark.parametrize("page", ["README.md", "SOLUTIONS.md", "results/demo/README.md"])
def test_every_link_leads_somewhere(page):
    text = (ROOT / page).read_text()
    headings = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)", text, re.MULTILINE)}
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith("http"):
            path, _, place = target.partition("#")
            assert ((ROOT / page).parent / path).exists() and (path or place in headings), target


def test_the_figures_stand_in_the_results():
    report = (ROOT / "results/ablation/report.md").read_text()
    figures = re.findall(r"[+-]?\d+\.\d ± \d+\.\d", README)
    assert len(figures) > 40 and [figure for figure in figures if figure not in report] == []
    demo = DEMO + "".join((ROOT / "results/demo" / name).read_text() for name in ("report.md", "seeds.txt"))
    pairs = re.findall(r"(\d+\.\d) / (\d+\.\d)", README)
    assert len(pairs) >= 12 and [figure for pair in pairs for figure in pair if f" {figure} [" not in demo] == []


def test_every_name_in_code_exists():
    """`bigrpo.token_loss`, `tests/test_x.py` and `test_y` of the pages."""
    assert all((ROOT / name).is_file() for name in SCRIPTS)
    modules = "|".join(name.removesuffix(".py") for name in SCRIPTS)
    for module, names in re.findall(rf"`({modules})\.([\w.]+)`", README + SOLUTIONS):
        found = importlib.import_module(module)
        for name in names.split(".") if names != "py" else []:
            assert hasattr(found, name), f"{module}.{names}"
            found = getattr(found, name)
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for name in re.findall(r"\btest_\w+", SOLUTIONS):
        assert f"def {name}(" in tests or (ROOT / "tests" / f"{name}.py").is_file(), name
    for path in re.findall(r"\b(?:tools|tests|results)/[\w/]+\.\w+", README + SOLUTIONS):
        assert (ROOT / path).is_file(), path


def test_every_flag_in_the_text_exists():
    """Those of commands are checked with their scripts, below; here those that stand alone, such as `--beta 0`."""
    sources = "".join(path.read_text() for path in [*(ROOT / name for name in SCRIPTS), *(ROOT / "tools").glob("*.py")])
    for flag in re.findall(r"`(--[a-z][a-z-]*)", README + SOLUTIONS):
        assert f'"{flag}"' in sources, flag


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README + SOLUTIONS + DEMO + (ROOT / ".ci/run").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_flag_exists(command):
    script, *words = command.split()
    assert (ROOT / script).is_file(), script
    source = (ROOT / script).read_text()
    for flag in re.findall(r"(?<!\S)--[a-z][a-z-]*", " ".join(words)):
        assert f'"{flag}"' in source, f"{script} has no {flag}"


@pytest.mark.parametrize("file, broken", [("bigrpo.py", mutations.BIGRPO), ("policy.py", mutations.POLICY)])
def test_every_mutation_finds_the_one_line_that_it_breaks(file, broken):
    source = (ROOT / file).read_text()
    assert [name for name, pattern, _ in broken if source.count(pattern) != 1] == []


@pytest.mark.parametrize("script", ["augment.py", "sft.py", "bigrpo.py", "evaluate.py", "toy.py", "sandbox.py"])
def test_help_answers_before_anything_heavy_is_imported(script):
    code = (f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{script!r}, '--help']\n"
            f"try: runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
            "except SystemExit as stop: assert not stop.code\n"
            "assert not {'transformers', 'vllm', 'datasets'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


@pytest.mark.parametrize("words, message", [
    (["sft.py", "--lr", "0"], "argument --lr"), (["bigrpo.py", "--advantage", "x"], "argument --advantage"),
    (["bigrpo.py", "--group", "1"], "--group at least 2"), (["bigrpo.py", "--temperature", "0"], "argument --temperature"),
    (["sft.py", "--data", "absent.jsonl"], "error: absent.jsonl: No such file"), (["evaluate.py", "--data", "README.md"], "error: README.md: line 1"),
    (["evaluate.py", "compare", "README.md", "x"], "error: README.md:"), (["augment.py", "--programs", "absent.jsonl", "--out", "x"], "absent.jsonl: no such file"),
    (["toy.py", "--difficulty", "0"], "argument --difficulty"), (["toy.py", "--out", "README.md"], "error: --out README.md: File exists")])
def test_bad_input_is_one_clear_line_and_exit_code_2(words, message):
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
