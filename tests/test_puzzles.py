"""tools/puzzles.py: one seed gives the same distinct programs, nearly all run, none is the benchmark's, and the grammar's parts occur."""
import ast
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import sandbox
from tools import puzzles

DATA = Path(os.environ.get("STEPCODE_DATA", "")) / "cruxeval.jsonl"
ROWS = list(puzzles.programs(600, seed=1))


def test_a_seed_repeats_and_no_program_comes_twice():
    assert list(puzzles.programs(600, seed=1)) == ROWS != list(puzzles.programs(600, seed=2))
    assert len({row["code"] for row in ROWS}) == len({row["id"] for row in ROWS}) == 600


def test_programs_parse_and_are_called_with_literals_that_fit_the_parameters():
    for row in ROWS:
        function, = ast.parse(row["code"]).body
        call = ast.parse(row["call"], mode="eval").body
        assert function.name == call.func.id == "f" and len(function.args.args) == len(call.args), row
        for argument in call.args:
            ast.literal_eval(argument)


def test_every_template_of_the_grammar_is_python():
    words = {key: texts[0] for key, texts in puzzles.SPECIAL.items()} | {"block": "pass", "upd": "pass", "item": ""}
    choices = [puzzles.SIMPLE, puzzles.COMPOUND, puzzles.ENDS, *puzzles.EXPRESSIONS.values(), *puzzles.UPDATES.values()]
    for template in (template for choice in choices for template in choice.all[1]):
        text = "".join(piece if isinstance(piece, str) else "x" if piece.kind else words.get(piece.key, "x") for piece in template.pieces)
        ast.parse("def f():\n    for _ in x:\n        " + text.replace("\n", "\n        "))


def test_an_expression_gets_brackets_where_it_needs_them():
    sums, products = (puzzles.Template(text) for text in ("<I> + <K>", "<I> * <H>"))
    assert sums.level == 1 > products.pieces[1].room          # (x + 1) * 2
    call, either = puzzles.Template("len(<S>)"), puzzles.Template("<S> if <B> else <S>")
    assert either.level == 3 == call.pieces[1].room           # len(x if b else y)
    assert call.level == 0                                    # len(x) * 2


def test_most_programs_run_and_their_results_vary():
    traces = list(sandbox.trace_many((row["code"], row["call"]) for row in ROWS))
    assert sum(trace.status == "ok" for trace in traces) >= 0.85 * len(ROWS), Counter(trace.error for trace in traces).most_common(5)
    assert not any(trace.status in ("timeout", "memory", "syntax") for trace in traces)
    assert len({trace.value for trace in traces}) > 0.55 * len(ROWS)


def test_most_parameters_are_read():
    # A program that ignores its arguments teaches nothing.
    unread = total = 0
    for row in ROWS:
        function, = ast.parse(row["code"]).body
        loaded = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        total += len(function.args.args)
        unread += len({parameter.arg for parameter in function.args.args} - loaded)
    assert unread < 0.1 * total


def test_the_constructs_of_short_functions_occur():
    nodes = {type(node) for row in puzzles.programs(3000, seed=3) for node in ast.walk(ast.parse(row["code"]))}
    for kind in (ast.For, ast.While, ast.If, ast.IfExp, ast.ListComp, ast.DictComp, ast.GeneratorExp, ast.Try, ast.Break, ast.Continue,
                 ast.AugAssign, ast.Delete, ast.Lambda, ast.JoinedStr, ast.Slice, ast.Tuple, ast.Dict, ast.BoolOp, ast.NotIn):
        assert kind in nodes, kind


def test_shape_ignores_names_spaces_and_quotes_but_not_code():
    code = "def f(text, n):\n    return text.replace('a', 'b')[n:]"
    assert puzzles.shape(code) == puzzles.shape('def f(s,k):\n    return s.replace("a", "b")[k:]\n')
    assert puzzles.shape(code) == puzzles.shape("def f(str, id):\n\n    return str.replace('a', 'b')[id:]")  # blank lines, names of builtins
    for other in (code.replace("replace", "strip"), code.replace("'b'", "'c'"), code.replace("[n:]", "[:n]"), code.replace("text.", "n.")):
        assert puzzles.shape(code) != puzzles.shape(other), other


def test_left_out_programs_do_not_come():
    left_out = {puzzles.shape(row["code"]) for row in ROWS[:50]}
    assert not left_out & {puzzles.shape(row["code"]) for row in puzzles.programs(100, seed=1, leave_out=left_out)}


@pytest.mark.skipif(not DATA.is_file(), reason="STEPCODE_DATA names no folder with cruxeval.jsonl")
def test_no_program_of_the_benchmark_is_written(tmp_path):
    command = [sys.executable, puzzles.__file__, "--out", str(tmp_path), "--sft", "2900", "--rl", "100", "--width", "32", "--layers", "1", "--seed", "4", "--leave-out", str(DATA)]
    subprocess.run(command, check=True, capture_output=True)
    written = [json.loads(line) for part in ("sft", "rl") for line in (tmp_path / f"{part}.jsonl").open()]
    theirs = {ast.unparse(ast.parse(json.loads(line)["code"])) for line in DATA.open()}
    shapes = {puzzles.shape(code) for code in theirs}
    assert len(written) == 3000 and len(theirs) > 700
    assert not theirs & {ast.unparse(ast.parse(row["code"])) for row in written}
    assert not shapes & {puzzles.shape(row["code"]) for row in written}


@pytest.mark.parametrize("words, line", [
    (["--sft", "-3"], "argument --sft: '-3' is no count: a whole number from 1 on"),
    (["--out", "runs/\udcff"], "the path is not UTF-8"),
    (["--compare", "no.jsonl"], "No such file or directory: 'no.jsonl'"),
    (["--compare", "wrong.jsonl", "--sft", "9"], "0 of 0 programs run: too few to compare")])
def test_bad_input_ends_with_a_line(words, line, tmp_path, monkeypatch, capsys):
    (tmp_path / "wrong.jsonl").write_text('{"code": "def f(x: return x", "call": "f(1)"}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["puzzles.py", *words])
    with pytest.raises(SystemExit) as stop:
        puzzles.main()
    assert stop.value.code == 2 and line in capsys.readouterr().err


def test_compare_prints_sizes_and_shares_side_by_side(tmp_path, capsys):
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps({"code": f"def f(s):\n    return s.upper() + 'x' * {n}", "input": "'a'"}) + "\n" for n in range(20)))
    puzzles.compare(path, 40, seed=0)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("lines ")][0].split()[1:5] == ["2", "2", "2", "2.0"]
    assert [line for line in lines if line.startswith(".upper")][0].split()[1] == "100.0"
