"""tools/reval.py: the benchmark's own notion of state, next line and right answer, each with a case that the naive rule gets wrong."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

import evaluate
from tools import benchmarks, reval

LOOP = """\
def f(n):
    s = 0
    for i in range(n):
        s += i
    if n > 9:
        s = -1
    return s"""
HELPER = """\
def g(z):
    return z + 1
def f(x):
    y = g(x)
    return y"""
PARTS = """\
class Box:
    pass
def f(k):
    box, d, i, a = Box(), {'k': [1]}, 0, [7, 8]
    box.b = 5
    i = 1
    return a"""
COUNTER = "class Counter:\n    def __init__(self):\n        self.n = 0\n\n    def add(self, k):\n        self.n += k\n        return self.n"
COUNTER_TEST = """\
import unittest
class CounterTestAdd(unittest.TestCase):
    def setUp(self):
        self.counter = Counter()
        self.counter.add(10)
    def test_add(self):
        self.assertEqual(self.counter.add(2), 12)
    def test_more(self):
        self.counter.add(100)
class CounterTestZ(unittest.TestCase):
    def test_z(self):
        self.assertEqual(Counter().add(1), 1)
if __name__ == '__main__':
    unittest.main()"""


def rows_of(tmp_path, code, queries, *, entry="f", inputs=("(2,)",), test=None, output=None):
    """The rows of one program whose queries, (line, variable), are asked under each input."""
    program = {"task_id": "DREval/0", "entry_point": entry, "code": code, "inputs": list(inputs), "outputs": [], "test": test}
    asked = [{"input_idx": i, "task": [{"lineno": line, "var": var} for line, var in queries], "output_pred": output or f"assert {entry}{text[:-2]}) == ??"}
             for i, text in enumerate(inputs)]
    (tmp_path / "DREval_data.jsonl").write_text(json.dumps(program) + "\n")
    (tmp_path / "DREval_tasks.jsonl").write_text(json.dumps({"task_id": "DREval/0", "idx": 0, "tasks": asked}) + "\n")
    return reval.REval().read(tmp_path / "DREval_data.jsonl")


def truth(tmp_path, code, queries, **more):
    """[covered, values after, next lines] of each query under the first input."""
    (_, found), *_ = reval.truths(rows_of(tmp_path, code, queries, **more))
    return found


def judged(rows, task, answers, line=None):
    """Are these answers to the first query of a task (at a line) right?"""
    row = next(row for row in rows if row["ask"] == task and line in (None, row["lineno"]))
    return [status == "ok" for status in benchmarks.judge(reval.REval(), [(row, answer) for answer in answers])]


# ---------------------------------------------------------------------------------------------------------------------
# The truth


def test_a_loop_by_hand(tmp_path):
    # f(2) visits 2, 3, 4, 3, 4, 3, 5, 7. A line's values are those after each visit, before the next state.
    found = truth(tmp_path, LOOP, [(3, "i"), (4, "s"), (5, "s"), (6, "s"), (7, "s")])
    assert found == [[True, [("0", "int"), ("1", "int")], [4, 5]],     # the loop's head goes on, or out
                     [True, [("0", "int"), ("1", "int")], [3]],
                     [True, [("1", "int")], [7]],
                     [False, [], [-1]],                                 # not executed: Nil, and -1
                     [True, [("1", "int")], [-1]]]                      # the last state is its own next


def test_the_next_state_may_be_of_another_frame(tmp_path):
    # After line 4 calls g the next state is g's line 2, where y does not exist: the benchmark says Nil, and next is 2. (By frame
    # it would be 3; int, and 5.) g's line 2 returns into line 4 without a new event, so its next is 5.
    found = truth(tmp_path, HELPER, [(4, "y"), (2, "z"), (5, "y")])
    assert found == [[True, [], [2]], [True, [], [5]], [True, [("3", "int")], [-1]]]


def test_events_of_one_line_in_a_row_are_one_state(tmp_path):
    # Recursion on one line: visits of line 2 merge, so f(3) has the states 2 and nothing else; by events there would be three more.
    found = truth(tmp_path, "def f(n):\n    return n and f(n - 1)", [(2, "n")], inputs=["(3,)"])
    assert found == [[True, [("0", "int")], [-1]]]  # the locals of its last event


def test_expressions_combine_all_values(tmp_path):
    names = ["a[i]", "d['k'][0]", "box.b", "(i, a)", "a[i - 1]", "box.c", "d['x']", "missing"]
    values = [state for _, state, _ in truth(tmp_path, PARTS, [(6, name) for name in names])]
    assert values == [[("8", "int")], [("1", "int")], [("5", "int")], [("(1, [7, 8])", "tuple")], [], [], [], []]
    # two visits of line 3: i is 0 or 1, and a[i] any combination of the values, also those that never were together
    code = "def f(n):\n    a = [5]\n    for i in range(2):\n        a = a + [i]\n    return a"
    (_, values, _), = truth(tmp_path, code, [(4, "a[i]")])
    assert values == [("5", "int"), ("0", "int")]


def test_what_cannot_be_copied_is_no_value(tmp_path):
    code = "def f(n):\n    g = (x for x in 'ab')\n    import math\n    h = max\n    return n"
    assert [state for _, state, _ in truth(tmp_path, code, [(2, "g"), (3, "math"), (4, "h"), (4, "n")])] == [[], [], [], [("2", "int")]]


def test_a_class_runs_its_first_test_after_setup(tmp_path):
    inputs = ["assertEqual(self.counter.add(2), 12)\n", "assertEqual(Counter().add(1), 1)\n"]
    rows = rows_of(tmp_path, COUNTER, [(6, "self.n"), (3, "self.n")], entry="Counter", inputs=inputs, test=COUNTER_TEST, output="assertEqual(self.counter.add(2), ??)")
    found = [truths for _, truths in reval.truths(rows)]
    assert found[0] == [[True, [("12", "int")], [7]], [False, [], [-1]]]    # __init__ ran in setUp, which is not traced
    assert found[1] == [[True, [("1", "int")], [7]], [True, [("0", "int")], [6]]]
    assert "self.counter.add(10)" in reval.run_of(rows[0]) and "executed before" not in reval.run_of(rows[-1])
    row = next(row for row in rows if row["ask"] == "output")
    right = "assertEqual(self.counter.add(2), 12)"
    answers = [right, right.replace("12", "13"), "self." + right, "assertTrue(True)", "x = 1", f"if True:\n\t{right}"]
    assert [s == "ok" for s in benchmarks.judge(reval.REval(), [(row, answer) for answer in answers])] == [True, False, False, False, False, True]


def test_save_truth(tmp_path, monkeypatch, capsys):
    rows_of(tmp_path, LOOP, [(3, "i"), (6, "s")], inputs=["(2,)", "(10,)", "('x',)"])
    monkeypatch.setattr(sys, "argv", ["reval.py", "--data", str(tmp_path), "--save-truth", str(tmp_path / "truth.jsonl")])
    reval.main()
    lines = [json.loads(line) for line in (tmp_path / "truth.jsonl").read_text().splitlines()]
    assert lines[1] == {"task_id": "DREval/0", "input_idx": 0, "lineno": 6, "var": "s", "status": "ok", "coverage": False, "state": [], "path": [-1]}
    assert lines[3]["state"] == [["-1", "int"]] and lines[3]["path"] == [7]
    assert lines[4]["status"].startswith("error: TypeError") and "2 error: TypeError" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Answers


def test_coverage_reads_three_characters():
    # `"YES" in text` would take the last three for YES
    answers = {"YES": True, " yes, it is": True, "NO": False, "No": False, "": False, "Y": False, "The answer is YES": False, "\nYES": True}
    assert {text: reval.says_yes(text) for text in answers} == answers


def test_coverage_is_judged(tmp_path):
    rows = rows_of(tmp_path, LOOP, [(4, "s"), (6, "s")])
    assert judged(rows, "coverage", ["YES", "NO", "maybe"], 4) == [True, False, False]
    assert judged(rows, "coverage", ["YES", "NO", "maybe"], 6) == [False, True, True]  # what is not YES counts as NO
    asked = [row for row in rows if row["ask"] in ("coverage", "path")]  # so does no answer at all; elsewhere it is wrong
    part = evaluate.Part("reval", reval.REval(), False, tmp_path, asked, reval.REval().questions(asked, False, "bare")[0], {})
    found = {(row["lineno"], row["ask"]): item["final"] for row, item in zip(asked, evaluate.score_responses(None, part, [[] for _ in asked]))}
    assert found == {(4, "coverage"): 0.0, (4, "path"): 0.0, (6, "coverage"): 1.0, (6, "path"): 0.0}


@pytest.mark.parametrize("value, right, wrong", [
    ("3", ["3; int", "1 + 2; int", "3; integer", "3; <class 'int'>", " 3 ;  INT ", "3; <class 'int'>\nas assigned"], ["3", "3; float", "3.0; int", "'3'; str", "True; int", "Nil", ""]),
    ("1.5", ["1.5; float", "1.5000001; float", "3/2; float"], ["1.51; float", "1; int", "1.5; str"]),
    ("True", ["True; bool"], ["1; int", "1; bool"]),      # 1 == True, but the types differ
    ("1", ["1; int"], ["True; bool"]),
    ("'a;b'", ["'a;b'; str", "a;b; str", "\u2018a;b\u2019; string"], ["'a'; b; str", "a; str"]),   # split at the last ;
    ("[1, 'x']", ["[1, 'x']; list", "[1, 'x']; List[int]", "[1, 'x']; list[int]\n\nSo it is.", "[1] + ['x']; list"], ["(1, 'x'); tuple", "[1, 'x']; tuple"]),
    ("(1, 2)", ["(1, 2); Tuple[int, int]", "(1, 2); int, int"], ["[1, 2]; tuple"]),
    ("None", ["None; NoneType"], ["Nil", "0; int"]),
    ("{2: {3}}", ["{2: {3}}; dict"], ["{2: [3]}; dict"])])
def test_states(tmp_path, value, right, wrong):
    rows = rows_of(tmp_path, f"def f(n):\n    x = {value}\n    return x", [(2, "x")])
    assert judged(rows, "state", right) == [True] * len(right)
    assert judged(rows, "state", wrong) == [False] * len(wrong)


def test_nil_is_for_lines_that_do_not_run(tmp_path):
    rows = rows_of(tmp_path, LOOP, [(6, "s"), (3, "i")])
    assert judged(rows, "state", ["Nil", "nil", "[Nil]", "Nil; Nil", "None; NoneType", "1; int"], 6) == [True] * 4 + [False] * 2
    assert judged(rows, "state", ["0; int", "1; int", "2; int", "Nil"], 3) == [True, True, False, False]  # after any visit


def test_a_model_text_is_evaluated_in_the_sandbox_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rows_of(tmp_path, LOOP, [(3, "i")])
    assert judged(rows, "state", [f"__import__('pathlib').Path({str(tmp_path / 'out')!r}).write_text('x'); int", "__import__('sys').exit(0); int"]) == [False, False]
    assert not (tmp_path / "out").exists()


def test_paths(tmp_path):
    code = "def f(n):\n    if n:\n        n = 1\n    else:\n        n = 1\n    return n"
    rows = rows_of(tmp_path, code, [(2, "n"), (3, "n"), (5, "n"), (6, "n")])
    # both lines `n = 1` have the text of the answer: one of them is next, so it is right
    assert judged(rows, "path", ["n = 1", "   n = 1\nbecause", "return n", "-1", "n=1", ""], 2) == [True, True, False, False, False, False]
    assert judged(rows, "path", ["return n"], 3) == [True]
    assert judged(rows, "path", ["-1", "return n"], 5) == [True, False]  # not executed
    assert judged(rows, "path", ["-1"], 6) == [True]                     # the end


def test_outputs(tmp_path):
    rows = rows_of(tmp_path, LOOP, [(2, "s")])
    answers = ["assert f(2) == 1", "assert f(2) == 2", "assert True", "assert f(2) == 1 or assert True", "1", "assert 1 == f(2)"]
    assert judged(rows, "output", answers) == [True, False, False, False, False, True]
    asked = "x = 2\nassert f(x) == ??\nassert f(0) == ??"
    assert reval.completed("assert f(x) == 1\nassert f(0) == 0", asked) == "x = 2\nassert f(x) == 1\nassert f(0) == 0"  # padded in front
    assert reval.completed("x = 2\nassert f(x) == 1\n", asked) is None  # one assertion of two
    row = next(row for row in rows if row["ask"] == "output")
    assert reval.REval().generation(row, "<answer>1</answer>") == "assert f(2) == 1"  # our models answer with the value alone
    for response in ("<answer> assert f(2) == 1\n</answer>", "[ANSWER] assert f(2) == 1 [/ANSWER]"):
        assert reval.REval().generation(row, response) == "assert f(2) == 1"


def test_official_scores_are_those_of_each_task(tmp_path, monkeypatch, capsys):
    rows = rows_of(tmp_path, LOOP, [(4, "s")])
    texts = {"coverage": "YES", "state": "9; int", "path": "-1", "output": "assert f(2) == 2"}
    (tmp_path / "generations.json").write_text(json.dumps({row["id"]: [texts[row["ask"]]] for row in rows}))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "score", "--benchmark", "reval", "--data", str(tmp_path), "--generations", str(tmp_path / "generations.json"),
                                      "--out", str(tmp_path / "scores.json")])
    evaluate.main()
    found = json.loads((tmp_path / "scores.json").read_text())["tasks"]
    assert {name: metric["value"] for name, metric in found.items()} == {"coverage": 100.0, "state": 0.0, "path": 0.0, "output": 0.0, "incremental consistency": 12.5}
    assert re.search(r"incremental consistency +12\.5", capsys.readouterr().out)


def test_consistency_by_hand():
    # four queries of one input whose output is right: 1111 is 1, 110. is .25 only if the output is wrong too, so 0; 100 and output: 0; 0111: 0
    # and of one whose output is wrong: 111 is .5, 110 .25, 100 .125, 011 0.   Mean of eight: (1 + .5 + .25 + .125) / 8
    items = []
    for run, (output, queries) in enumerate([(1, ["111", "110", "100", "011"]), (0, ["111", "110", "100", "011"])]):
        items.append({"id": f"DREval/{run}/input 0/output", "final": float(output)})
        items += [{"id": f"DREval/{run}/input 0/line {line}/{task}", "final": float(digit)}
                  for line, digits in enumerate(queries) for task, digit in zip(reval.TASKS, digits)]
    found = reval.REval().extra(items, lambda ids, values: evaluate.mean(ids, values, 0))["tasks"]
    assert found["incremental consistency"]["value"] == pytest.approx(100 * 1.875 / 8)
    assert [found[task]["value"] for task in reval.TASKS] == [75.0, 75.0, 50.0, 50.0]


def test_every_sample_counts():
    # two samples of one query and its output, all right in the first, only coverage in the second: 1 and .125
    items = [{"id": f"D/0/input 0/{name}", "final": final} for final in (1.0, 0.0) for name in ("line 1/state", "line 1/path", "output")]
    items += [{"id": "D/0/input 0/line 1/coverage", "final": 1.0}] * 2
    found = reval.REval().extra(items, lambda ids, values: evaluate.mean(ids, values, 0))["tasks"]
    assert {name: metric["value"] for name, metric in found.items()} == {
        "coverage": 100.0, "state": 50.0, "path": 50.0, "output": 50.0, "incremental consistency": 56.25}


@pytest.mark.parametrize("task", [{"idx": 5, "tasks": []}, {"idx": 0, "tasks": [3]}, {"idx": 0, "tasks": [{"input_idx": 9}]}])
def test_tasks_that_do_not_fit_the_programs_are_one_line(tmp_path, capsys, task):
    rows_of(tmp_path, LOOP, [])
    (tmp_path / "DREval_tasks.jsonl").write_text(json.dumps(task | {"task_id": "D/0"}) + "\n")
    with pytest.raises(SystemExit) as stop:
        benchmarks.read_rows(reval.REval(), str(tmp_path))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "DREval_data.jsonl: a row is not of the form" in error and error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# With anchors


def test_lines_of_p_in_p_prime(tmp_path):
    rows = rows_of(tmp_path, LOOP, [(4, "s"), (7, "s")])
    questions, dropped = reval.REval().questions(rows, True, "instruct")
    assert not dropped and rows[0]["places"] == {1: 1, 2: 2, 3: 4, 4: 5, 5: 7, 6: 8, 7: 12}
    assert "line 5, `s += i`" in questions[0]["prompt"] and questions[0]["anchors"]
    assert "line 5, `s += i`" in questions[0]["shown"] and not questions[0]["call"]  # a page that shows it shows what was asked
    for line, place in rows[0]["places"].items():
        assert rows[0]["shown"].split("\n")[place - 1] == LOOP.split("\n")[line - 1]
    assert reval.line_map("if x: return x + 1\ny = 2", "if x:\n    return_val = x + 1\n    print(f'return_val: {return_val}')\n    return return_val\ny = 2") == {1: 1, 2: 5}
    assert reval.line_map("return True", "return_val = True\nprint(f'return_val: {return_val}')\nreturn return_val") == {1: 1}
    assert reval.line_map("def f(x):\n    return x", "def f(x):\n    x = 1") is None


def test_an_inserted_print_is_no_next_line(tmp_path):
    rows = rows_of(tmp_path, LOOP, [(2, "s"), (6, "s")], inputs=["(10,)"])
    reval.REval().questions(rows, True, "instruct")
    assert rows[0]["shown"].split("\n")[2] == "    print(f's: {s}')"
    # in P' line 3 prints s after line 2; the next line of P is the loop. The last is known by its text in P'.
    assert judged(rows, "path", ["print(f's: {s}')", "for i in range(n):"], 2) == [False, True]
    last = rows[0]["shown"].split("\n")[rows[0]["places"][7] - 1]
    assert judged(rows, "path", [last, "-1", "print(f's: {s}')"], 6) == [True, False, False]


def test_a_class_is_asked_without_anchors_and_counted(tmp_path):
    rows = rows_of(tmp_path, COUNTER, [(6, "self.n")], entry="Counter", inputs=["assertEqual(self.counter.add(2), 12)\n"], test=COUNTER_TEST,
                   output="assertEqual(self.counter.add(2), ??)")
    questions, dropped = reval.REval().questions(rows, True, "instruct")
    assert dropped == {"a class": 1} and all(not question["anchors"] and "print" not in question["shown"] for question in questions)


def data() -> Path:
    path = Path(os.environ.get("STEPCODE_DATA", "data"))
    if not (path / reval.REval.file).is_file():
        pytest.skip(f"{path / reval.REval.file} is absent (set STEPCODE_DATA to the folder that holds it)")
    return path / reval.REval.file


def test_real_rows():
    rows = reval.REval().read(data())
    assert len(rows) == 3 * 3152 + 690 and len({row["id"] for row in rows}) == len(rows)


@pytest.mark.slow
def test_always_yes_scores_what_it_is_known_to_score():
    rows = [row for row in reval.REval().read(data()) if row["test"] is None]
    covered = [covered for _, found in reval.truths(rows) for covered, _, _ in found]
    assert len(covered) == 1157 and 100 * sum(covered) / len(covered) == pytest.approx(81.7, abs=0.05)
