"""Random and mutated input to every reader: a result or one clear line, never a traceback, and nothing lost without being counted.

200 inputs each in `make test`, 10,000 in `make test-slow`; all from fixed seeds.
"""

import argparse
import json
import math
import random
import string
import sys

import pytest

import augment
import bigrpo
import evaluate
import policy
import rewards
import sandbox
import sft
import toy

COUNTS = [200, pytest.param(10_000, marks=pytest.mark.slow)]
EXAMPLE = {"id": "1", "code": "def f(a):\n    return a\n", "prompt": "def f(a):\n    return a\nassert f(1) == ??", "response": "<answer>1</answer>",
           "anchors": [["a", "1"]], "output": "1", "task": "output", "instrumented": "def f(a):\n    return a\n", "call": "f(1)"}
ODD = ["", " ", "\0", "\ud800", "é€😀", "\u2028", "x" * 3000, "[" * 3000, "9" * 5000, "1e999", "nan", "-inf", "-1", "0", "1_0", "٣", "\\", "'", '"', "{}", "<print>"]


def text(rng) -> str:
    if rng.random() < 0.4:
        return rng.choice(ODD)
    return "".join(rng.choices(string.printable, k=rng.randint(0, 20)))


def value(rng, depth=0):
    """Any JSON value."""
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind == 6:
        return [value(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if kind == 7:
        return {text(rng)[:9]: value(rng, depth + 1) for _ in range(rng.randint(0, 3))}
    return [None, True, rng.randint(-9, 9), rng.choice((0.5, math.nan, math.inf, 1e300)), text(rng), 10**400][kind]


def mutated(rng, data: bytes) -> bytes:
    """The bytes with a few of them replaced, removed, repeated or inserted; sometimes cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(data) + 1)
        end = min(len(data), start + rng.choice((0, 1, 1, 5, 50)))
        data[start:end] = rng.choice((b"", bytes([rng.randrange(256)]), data[start:end] * 2, text(rng).encode(errors="replace")[:9], b"\n"))
    return bytes(data[:rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def one_line(capsys, code: int, *words) -> None:
    """A program that ended with this code said why, once."""
    said = capsys.readouterr().err
    assert code == 2 and said.count("error: ") == 1 and all(str(word) in said for word in words), said


def read(function, *arguments, capsys, words=()):
    """The function's result; None if it ended the program as it should."""
    try:
        return function(*arguments)
    except SystemExit as problem:
        one_line(capsys, problem.code, *words)


@pytest.mark.parametrize("count", COUNTS)
def test_examples(count, tmp_path, capsys):
    path, rng, accepted = tmp_path / "examples.jsonl", random.Random(0), 0
    tokenizer = toy.make_tokenizer([EXAMPLE["prompt"]])
    for _ in range(count):
        rows = [dict(EXAMPLE) for _ in range(3)]
        for row in rows:
            if rng.random() < 0.3:
                row[rng.choice(list(EXAMPLE))] = value(rng)
            if rng.random() < 0.1:
                row.pop(rng.choice(list(row)))
        data = "".join(json.dumps(row if rng.random() < 0.95 else value(rng)) + "\n" for row in rows).encode()
        path.write_bytes(mutated(rng, data) if rng.random() < 0.4 else data)
        found = read(policy.read_jsonl, path, tuple(EXAMPLE), capsys=capsys, words=[path])
        if found is not None:  # every line is an example, and what reads examples can work with each
            accepted += 1
            assert len(found) == sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
            prompts, responses = sft.encode_examples(path, found, tokenizer, 10_000)
            assert len(prompts) == len(responses) == len(found)
            steps, masks, finals = rewards.score_many(["<print>a: 1</print><answer>1</answer>"] * len(found), found)
            assert all(math.isfinite(x) for row in [*steps, finals] for x in row)
    assert 0.1 * count < accepted < 0.9 * count  # both sides were tried


@pytest.mark.parametrize("count", COUNTS)
def test_generations_and_results(count, tmp_path, capsys):
    path, rng = tmp_path / "file.json", random.Random(1)
    rows = {f"sample_{i}": {} for i in range(3)}
    for _ in range(count):
        good = {name: ["1", "2"] for name in rows}
        if rng.random() < 0.5:
            good[rng.choice([*rows, "sample_9"])] = value(rng)
        data = json.dumps(good if rng.random() < 0.9 else value(rng)).encode()
        path.write_bytes(mutated(rng, data) if rng.random() < 0.5 else data)
        found = read(evaluate.read_generations, path, rows, capsys=capsys, words=[path])
        if found is not None:
            assert found.keys() <= rows.keys() and all(isinstance(one, str) for texts in found.values() for one in texts)
        read(evaluate.read_result, path, capsys=capsys, words=[path])


PIECES = ["<reasoning>", "</reasoning>", "<print>", "</print>", "<input>", "</input>", "<answer>", "</answer>", "a: 1", "1", "\n", "[1, 'a']"]


@pytest.mark.parametrize("count", COUNTS)
def test_responses(count):
    rng = random.Random(2)
    for _ in range(count):
        response = "".join(rng.choice(PIECES) if rng.random() < 0.8 else text(rng) for _ in range(rng.randint(0, 30)))
        spans = [(block.start, block.end) for block in rewards.parse(response).blocks]
        assert all(0 <= start < end <= len(response) for start, end in spans)
        assert all(end <= start for (_, end), (start, _) in zip(spans, spans[1:]))
        output = rng.choice(("1", "[1, 'a']", text(rng)))
        step, mask, final = rewards.score(response, EXAMPLE | {"output": output})
        assert set(step) <= {0.0, 1.0} and mask == [True] and final in (0.0, 1.0)


@pytest.mark.parametrize("count", COUNTS)
def test_programs_and_their_files(count, tmp_path):
    path, rng = tmp_path / "programs.jsonl", random.Random(3)
    sources = [row["code"] for row in toy.programs(20, False, 3, seed=0)]
    for _ in range(count):
        code = mutated(rng, rng.choice(sources).encode()).decode(errors=rng.choice(("replace", "surrogateescape")))
        try:
            assert isinstance(augment.instrument(code, loop_anchors=rng.choice((0, 2))), str)
        except (SyntaxError, ValueError, RecursionError):
            pass  # what it says it raises
        row = {"code": rng.choice((code, value(rng))), "input": rng.choice(("1", value(rng)))}
        data = json.dumps(row).encode() + b"\n"
        path.write_bytes(mutated(rng, data) if rng.random() < 0.5 else data)
        try:
            found = list(augment.program_rows(path, augment.FIELDS))
            assert len(found) == sum(not line.isspace() for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n") or line)
        except augment.BadInput as problem:
            assert str(path) in str(problem)


@pytest.mark.parametrize("count", COUNTS)
def test_programs_that_are_run(count):
    rng = random.Random(4)
    sources = [row["code"] for row in toy.programs(20, False, 3, seed=0)]
    jobs = [(mutated(rng, rng.choice(sources).encode()).decode(errors="replace"), rng.choice(("f(1)", "f()", "f(", text(rng)))) for _ in range(count // 4)]
    found = list(sandbox.trace_many(jobs, timeout=1.0))
    assert len(found) == len(jobs) and all(isinstance(one.status, str) for one in found)


PARSERS = {"augment.py": augment, "sft.py": sft, "bigrpo.py": bigrpo, "evaluate.py": evaluate, "toy.py": toy}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("script", PARSERS)
def test_command_lines(script, count, capsys):
    parser, rng = PARSERS[script].build_parser(), random.Random(5)
    sys.stderr.reconfigure(errors="backslashreplace")  # as it is outside pytest
    actions = {name: choice for action in parser._actions if isinstance(action.choices, dict) for name, choice in action.choices.items()}
    for _ in range(count):
        name, chosen = rng.choice([*actions.items()]) if actions else (None, parser)
        flags = [flag for action in chosen._actions for flag in action.option_strings if flag not in ("-h", "--help")]
        words = [name] * bool(actions)
        for _ in range(rng.randint(0, 3)):
            words.append(rng.choice(flags) if rng.random() < 0.9 else text(rng))
            words.append(rng.choice((text(rng), str(rng.randint(-2, 99)), str(rng.uniform(-1, 2)), "nan", "1")))
        words = [word.replace("\ud800", "\udcff") for word in words]  # the surrogates of a command line are those of bytes that are no UTF-8
        args = read(parser.parse_args, words, capsys=capsys)
        for value in vars(args or argparse.Namespace()).values():
            assert not isinstance(value, (int, float)) or math.isfinite(value) and 0 <= value < 2**63


@pytest.mark.parametrize("script, words", [
    ("bigrpo.py", ["--lam", "nan"]), ("bigrpo.py", ["--lam", "-0.1"]), ("bigrpo.py", ["--beta", "-1"]), ("bigrpo.py", ["--clip-low", "-0.2"]),
    ("bigrpo.py", ["--clip-high", "inf"]), ("bigrpo.py", ["--seed", "-1"]), ("bigrpo.py", ["--steps", "99999999999"]), ("sft.py", ["--seed", "-1"]),
    ("evaluate.py", ["run", "--temperature", "nan"]), ("toy.py", ["--width", "12"]), ("toy.py", ["--sft", "-5"]), ("toy.py", ["--layers", "0"])])
def test_nonsense_numbers_are_refused(script, words, capsys):
    with pytest.raises(SystemExit) as stop:
        PARSERS[script].build_parser().parse_args(words)
    one_line(capsys, stop.value.code, f"argument {words[-2]}")
