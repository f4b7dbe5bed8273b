"""rewards.py: reading responses of every kind, Eqs. 8-9 for both tasks, and policies that try to collect without working."""

import random
import re
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import rewards
import sandbox
from rewards import Block, parse, same_literal, score, score_many

PROGRAM = """\
def f(a, b):
    c = a + b
    print(f'c: {c}')
    d = c * 2
    print(f'd: {d}')
    return_val = d
    print(f'return_val: {return_val}')
    return d"""
ANCHORS = [["c", "7"], ["d", "14"], ["return_val", "14"]]
OUTPUT = {"task": "output", "instrumented": PROGRAM, "call": "f(3, 4)", "anchors": ANCHORS, "output": "14"}
INPUT = OUTPUT | {"task": "input"}


def blocks(*texts):
    return "".join(f"<reasoning>r</reasoning><print>{text}</print>" for text in texts)


def output_response(answer, *texts):
    return f"{blocks(*texts)}<reasoning>r</reasoning><answer>{answer}</answer>"


def input_response(commitment, *texts, answer=None):
    return f"<reasoning>r</reasoning><input>{commitment}</input>" + output_response(commitment if answer is None else answer, *texts)


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def test_spans_cover_reasoning_and_print():
    response = "<reasoning>x</reasoning><print>a: 1</print><print>b: 2</print><answer>3</answer>"
    read = parse(response)
    assert read.answer == "3" and read.input is None
    assert [response[block.start:block.end] for block in read.blocks] == [
        "<reasoning>x</reasoning><print>a: 1</print>", "<print>b: 2</print>"]


def test_the_first_span_begins_after_the_input():
    response = "<reasoning>i</reasoning><input>1</input><reasoning>x</reasoning><print>a: 1</print>"
    read = parse(response)
    assert read.input == "1" and read.answer is None
    assert response[read.blocks[0].start:read.blocks[0].end] == "<reasoning>x</reasoning><print>a: 1</print>"


@pytest.mark.parametrize("inside, read", [
    ("a: 1", "a: 1"), ("\na: 1\n", "a: 1"), ("\n\na: 1\n\n", "\na: 1\n"), (" a: 1 ", " a: 1 "), ("\r\na: 1", "\r\na: 1"), ("", ""), ("\n", ""),
    ("a: <b>", "a: <b>"), ("a: </reasoning>", "a: </reasoning>"), ("a: <answer>1</answer>", "a: <answer>1</answer>"), ("<print>a: 1", "<print>a: 1")])
def test_text_between_tags(inside, read):
    """At most one newline goes at either end; other tags inside are text."""
    assert parse(f"<print>{inside}</print>").blocks == [Block(read, 0, len(inside) + 15)]


@pytest.mark.parametrize("response, texts, answer, committed", [
    ("", [], None, None),
    ("no tags at all", [], None, None),
    ("<print>a: 1", [], None, None),                                                      # cut in a print
    ("<print>a: 1</print><answer>3", ["a: 1"], None, None),                               # cut in the answer
    ("<reasoning>open <print>a: 1</print><answer>3</answer>", ["a: 1"], "3", None),       # a tag left open is text
    ("a: 1</print><answer>3</answer>", [], "3", None),                                    # a tag never opened
    ("<print>a: 1</answer></print><answer>3</answer>", ["a: 1</answer>"], "3", None),     # a wrong closing tag is text
    ("<answer>1</answer><print>a: 1</print><answer>2</answer>", [], "1", None),           # the first answer ends it
    ("<reasoning><answer>1</answer></reasoning><answer>2</answer>", [], "2", None),       # thinking aloud is no answer
    ("<input>1</input><input>2</input><answer>1</answer>", [], "1", "1"),                 # the first input counts
    ("<print>a: 1</print><input>2</input><answer>2</answer>", ["a: 1"], "2", None),       # a late commitment is none
    ("<answer>2</answer><input>2</input>", [], "2", None),
    ("<PRINT>a: 1</PRINT><print >a: 1</print>", [], None, None),
])
def test_malformed_and_truncated(response, texts, answer, committed):
    read = parse(response)
    assert ([block.text for block in read.blocks], read.answer, read.input) == (texts, answer, committed)


def test_reading_equals_the_regular_expression():
    """elements() is the linear-time form of one re.finditer; the two agree on random piles of tags."""
    pattern = re.compile(r"<(reasoning|print|input|answer)>(.*?)</\1>", re.DOTALL)
    draw, pieces = random.Random(0), ["x", "\n", "<", *(f"<{slash}{name}>" for slash in ("", "/") for name in ("print", "input", "answer", "reasoning"))]
    for _ in range(3000):
        response = "".join(draw.choices(pieces, k=draw.randint(0, 14)))
        expected = [(m[1], m[2].removeprefix("\n").removesuffix("\n"), m.end()) for m in pattern.finditer(response)]
        assert list(rewards.elements(response)) == expected


def test_reading_takes_linear_time():
    start = time.perf_counter()
    for response in ("<print>" * 100_000, "<answer>" * 100_000 + "</print>" * 100_000, "<print></print>" * 50_000):
        parse(response)
    assert time.perf_counter() - start < 3


# ---------------------------------------------------------------------------------------------------------------------
# Literals


@pytest.mark.parametrize("a, b", [
    ("1", "1"), ("1", " 1 "), ("'a'", '"a"'), ("[1,2]", "[1, 2]"), ("(1)", "1"), ("1e3", "1000.0"), ("{0, 8}", "{8, 0}"), ("{1: 'a', 2: 'b'}", "{2: 'b', 1: 'a'}"),
    ("None", "None"), ("-0.0", "0.0"), ("set()", "set()"), ("b'a'", "b'a'"), ("1 + 2j", "(1+2j)"), ("'\\x61'", "'a'")])
def test_equal_literals(a, b):
    assert same_literal(a, b) and same_literal(b, a)


@pytest.mark.parametrize("a, b", [
    ("1", "True"), ("1", "1.0"), ("0", "False"), ("[1]", "[True]"), ("[1]", "(1,)"), ("{1}", "{True}"), ("{1}", "{1.0}"), ("{1: 2}", "{1: 2.0}"), ("{1: 2}", "{1.0: 2}"),
    ("'1'", "1"), ("'a'", "b'a'"), ("[1, 2]", "[2, 1]"), ("((1,), 2)", "((1.0,), 2)"), ("{(1, 2)}", "{(1, True)}"), ("None", "False"), ("{}", "set()"), ("[]", "()"),
    ("7", "3 + 4"), ("7", ""), ("7", "7 7"), ("7", "seven")])
def test_different_literals(a, b):
    assert not same_literal(a, b) and not same_literal(b, a)


@pytest.mark.parametrize("text", ["nan", "inf", "f(3)", "x", "[x for x in y]", "__import__('os')", "'", "(", "\0", "1\n2", "f'{1}'", "lambda: 1", "{[]: 1}", "{{}}", "9" * 5000,
                                  repr("a" * rewards.LITERAL_LIMIT)])
def test_what_is_no_literal_equals_nothing_not_even_itself(text):
    assert not same_literal(text, text)


@pytest.mark.parametrize("unit", ["(", "[", "{", "-", "not ", "1+", "a.", "f(", "[0]", "1 if 1 else ", "lambda:", "1**", "'", "\\", "{1:", "[[]", "~", "()"])
def test_hostile_nesting_neither_crashes_nor_stalls(unit):
    start = time.perf_counter()
    for size in (95, 1000, rewards.LITERAL_LIMIT, 10 * rewards.LITERAL_LIMIT):
        for text in (unit * (size // len(unit)), unit * (size // len(unit)) + "1"):
            assert same_literal(text, "7") is False and rewards.literal_arguments(f"{text})") is False
            score(output_response(text), OUTPUT)
    assert time.perf_counter() - start < 3


@pytest.mark.parametrize("text, right", [
    ("", True), ("3, 'ab'", True), ("3, 4,", True), ("a=3, b=[4]", True), ("[1,\n 2]", True), ("-3, {1: (2,)}", True),
    ("x", False), ("f(3)", False), ("3) + f(4", False), ("3)(4", False), ("*[3, 4]", False), ("**{'a': 3}", False), ("a=b", False), ("3; 4", False), ("i for i in [1]", False),
    ("3 + 4", False), ("__import__('os')", False), ("3 4", False), ("lambda: 3", False)])
def test_argument_lists(text, right):
    assert rewards.literal_arguments(text) is right


# ---------------------------------------------------------------------------------------------------------------------
# Output prediction


@pytest.mark.parametrize("texts, steps", [
    (["c: 7", "d: 14", "return_val: 14"], [1, 1, 1]),
    (["c: 7", "d: 15", "return_val: 14"], [1, 0, 1]),
    (["c: 7", "d: 14"], [1, 1, 0]),                                  # a missing end is wrong
    (["d: 14", "return_val: 14"], [0, 0, 0]),                        # an omission shifts what follows
    (["c: 7", "d: 14", "return_val: 14", "e: 1"], [1, 1, 1]),        # a block too many changes nothing
    (["x: 7", "d: 14", "return_val: 14"], [0, 1, 1]),                # the name counts
    (["c: 7 ", "d:14", "return_val:  14"], [0, 0, 0]),               # and so does every blank
    (["\nc: 7\n", "d: 14", "return_val: 14"], [1, 1, 1]),
    ([], [0, 0, 0]),
])
def test_eq8_output(texts, steps):
    assert score(output_response("14", *texts), OUTPUT) == (steps, [True] * 3, 1.0)


@pytest.mark.parametrize("answer, final", [("14", 1), ("14.0", 0), ("'14'", 0), (" 14", 1), ("7 * 2", 0), ("", 0), ("f(3, 4)", 0), ("__import__('os').abort()", 0)])
def test_eq9_output(answer, final):
    assert score(output_response(answer), OUTPUT)[2] == final


def test_blocks_after_the_answer_do_not_count():
    assert score(output_response("14", "c: 7") + blocks("d: 14", "return_val: 14"), OUTPUT) == ([1, 0, 0], [True] * 3, 1.0)


def test_no_answer():
    assert score(blocks("c: 7", "d: 14"), OUTPUT) == ([1, 1, 0], [True] * 3, 0.0)


# ---------------------------------------------------------------------------------------------------------------------
# Input prediction. f(a, b) gives 2 (a + b); the example's own input is 3, 4.


def test_the_examples_own_input():
    assert score(input_response("3, 4", "c: 7", "d: 14", "return_val: 14"), INPUT) == ([1, 1, 1], [True] * 3, 1.0)


def test_another_right_input_is_judged_by_its_own_states():
    """f(a, b): x = a * b, then x + 0. 12 is 3 * 4 and also 2 * 6; a step that shows `a` differs between the two."""
    program = "def f(a, b):\n    c = a\n    print(f'c: {c}')\n    return_val = a * b\n    print(f'return_val: {return_val}')\n    return return_val"
    example = INPUT | {"instrumented": program, "anchors": [["c", "3"], ["return_val", "12"]], "output": "12"}
    assert score(input_response("2, 6", "c: 2", "return_val: 12"), example) == ([1, 1], [True] * 2, 1.0)
    assert score(input_response("2, 6", "c: 3", "return_val: 12"), example) == ([0, 1], [True] * 2, 1.0)


@pytest.mark.parametrize("response, final", [
    (input_response("3, 4", answer="3, 4"), 1), (input_response("b=4, a=3"), 1),
    (input_response("3, 4", answer="3,4"), 0), (input_response("3, 4", answer="14"), 0), (input_response("5, 5"), 0),
    (output_response("3, 4"), 0), ("<input>3, 4</input>", 0), ("<print>c: 7</print>" + input_response("3, 4"), 0)])
def test_eq9_input(response, final):
    assert score(response, INPUT)[2] == final


@pytest.mark.parametrize("commitment", ["f(3, 4)", "3", "'a', 4", "3, 4, 5", "x, y", "3 +", "3) or f(4", "open('/etc/passwd'), 1", "[" * 5000, ""])
def test_an_input_that_cannot_run_has_no_trace_of_its_own(commitment):
    """All zeros, and nothing masked: there is no own trace whose length could say what to leave out."""
    assert score(input_response(commitment, "c: 7", "d: 14", "return_val: 14"), INPUT) == ([0, 0, 0], [True] * 3, 0.0)


BRANCHES = """\
def f(n):
    if n == 0:
        return_val = 'no'
        print(f'return_val: {return_val}')
        return return_val
    m = n + 1
    print(f'm: {m}')
    if n > 5:
        k = m * 2
        print(f'k: {k}')
    return_val = 'yes' if n else n
    print(f'return_val: {return_val}')
    return return_val"""
SHORT = {"task": "input", "instrumented": BRANCHES, "call": "f(1)", "anchors": [["m", "2"], ["return_val", "'yes'"]], "output": "'yes'"}
LONG = SHORT | {"call": "f(6)", "anchors": [["m", "7"], ["k", "14"], ["return_val", "yes"]]}


def test_the_mask_follows_the_rollouts_own_trace():
    """LONG has n = 3 anchors; f(2) prints two (m = 3, return_val = yes), so the third position is masked."""
    assert score(input_response("2", "m: 3", "return_val: yes"), LONG) == ([1, 1, 0], [True, True, False], 1.0)
    assert score(input_response("7", "m: 8", "k: 16", "return_val: yes"), LONG) == ([1, 1, 1], [True] * 3, 1.0)
    # f(0) runs, prints one anchor and gives another output: masked to its own trace, all rewards 0
    assert score(input_response("0", "return_val: no"), LONG) == ([0, 0, 0], [True, False, False], 0.0)


def test_a_trace_longer_than_the_examples_is_cut_to_its_width():
    """SHORT has n = 2; f(9) prints three anchors. Only two positions exist, and the third block earns nothing."""
    assert score(input_response("9", "m: 10", "k: 20", "return_val: yes"), SHORT) == ([1, 1], [True, True], 1.0)


def test_a_lazy_policy_collects_nothing():
    """Committing to the easiest input and predicting its states perfectly pays only if that input is right."""
    lazy = input_response("0, 0", "c: 0", "d: 0", "return_val: 0")
    honest = input_response("7, 0", "c: 7", "d: 14", "return_val: 14")
    assert score(lazy, INPUT) == ([0, 0, 0], [True] * 3, 0.0)
    assert score(honest, INPUT) == ([1, 1, 1], [True] * 3, 1.0)
    # the same for the policy that always takes the shortest way out
    assert sum(score(input_response("0", "return_val: no"), LONG)[0]) == 0


def test_a_batch_equals_one_by_one_with_one_sandbox_call_per_program(monkeypatch):
    calls, run = [], sandbox.trace_inputs
    monkeypatch.setattr(sandbox, "trace_inputs", lambda program, entry, texts: calls.append((entry, texts)) or run(program, entry, texts))
    pairs = [(input_response("3, 4", "c: 7"), INPUT), (output_response("14", "c: 7"), OUTPUT), (input_response("2", "m: 3"), LONG),
             (input_response("x"), INPUT), (input_response("5, 2", "c: 7", "d: 14"), INPUT), ("", INPUT), ("", OUTPUT)]
    batch = score_many(*zip(*pairs))
    assert calls == [("f", ["3, 4", "5, 2"]), ("f", ["2"])]
    assert list(zip(*batch)) == [score(*pair) for pair in pairs]


def test_two_functions_of_one_program_are_two_entries():
    program = "".join(f"def {name}(a):\n    return_val = a * {k}\n    print(f'return_val: {{return_val}}')\n    return return_val\n" for name, k in (("f", 1), ("g", 2)))
    one = {"task": "input", "instrumented": program, "call": "f(4)", "anchors": [["return_val", "4"]], "output": "4"}
    steps, _, finals = score_many([input_response("4", "return_val: 4"), input_response("2", "return_val: 4")], [one, one | {"call": "g(2)"}])
    assert finals == [1, 1] and steps == [[1], [1]]


def test_nothing_to_score():
    assert score_many([], []) == ([], [], [])


@pytest.mark.parametrize("steps, final, total", [([1] * 6, 1, 2.0), ([1, 1, 1, 0, 0, 0], 1, 1.5), ([0, 1, 1, 0, 1, 0], 0, 0.5), ([0] * 6, 0, 0.0), ([], 1, 1.0)])
def test_the_papers_budget(steps, final, total):
    """n = 6: each anchor is worth 1/6. The paper writes 0.16 for it and so gets 1.48 and 0.48 for three right anchors."""
    assert rewards.reward_budget([float(step) for step in steps], float(final)) == pytest.approx(total)
