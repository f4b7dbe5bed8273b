"""What the README and the scripts tell a user to type exists: every path, every flag, every --help."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mutations

ROOT = Path(__file__).parent.parent
SCRIPTS = ["sandbox.py", "augment.py", "rewards.py", "policy.py", "sft.py", "bigrpo.py", "evaluate.py", "toy.py"]
README = (ROOT / "README.md").read_text()


def commands():
    """The `python x.py ...` and `torchrun x.py ...` lines of the README and of the scripts' docstrings."""
    texts = [README] + [(ROOT / name).read_text().split('"""')[1] for name in SCRIPTS]
    for line in "\n".join(texts).splitlines():
        for match in re.findall(r"(?:python|torchrun)(?: --\w+ \d+)* ((?:tools/|tests/)?\w+\.py(?: [^`#]*)?)", line):
            yield re.split(r"\s{2,}", match.strip())[0]


def test_every_script_and_link_exists():
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    assert all((ROOT / name).is_file() for name in SCRIPTS)


def test_every_make_target_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", README + (ROOT / ".ci/run").read_text()):
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
