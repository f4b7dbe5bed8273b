"""augment.py: the anchors, what is kept and dropped, prompts, responses and reasoning, and the command line."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import augment
import rewards
import sandbox
from tools import look

DATA = Path(os.environ.get("STEPCODE_DATA", "")) / "cruxeval.jsonl"


def text(code: str) -> str:
    return dedent(code).strip("\n")


# ---------------------------------------------------------------------------------------------------------------------
# Where anchors go: P on the left of the arrow, P' on the right


LAYOUT = {
    "assignments and a return": ("""
        def f(a, b):
            c = a + b  # a comment stays
            return c
        """, """
        def f(a, b):
            c = a + b  # a comment stays
            print(f'c: {c}')
            return_val = c
            print(f'return_val: {return_val}')
            return c
        """),
    "a returned expression gets a name": ("""
        def f(a):
            return (a +
                    1)  # why
        """, """
        def f(a):
            return_val = (a +
                    1)  # why
            print(f'return_val: {return_val}')
            return return_val
        """),
    "nothing in a loop but a return; after it what it changed and what is certainly bound": ("""
        def f(xs):
            s = 0
            for x in xs:
                s += x
                last = x
                if s > 9:
                    return s
            else:
                s -= 1
            return s, xs
        """, """
        def f(xs):
            s = 0
            print(f's: {s}')
            for x in xs:
                s += x
                last = x
                if s > 9:
                    return_val = s
                    print(f'return_val: {return_val}')
                    return s
            else:
                s -= 1
            print(f's: {s}')
            return_val = s, xs
            print(f'return_val: {return_val}')
            return return_val
        """),
    "where statements share a line the program is laid out anew, without its comments": ("""
        def f(a):
            import math; import re
            b = 1; c = 2;  # both
            if a: return b
            elif b: pass
            else: c = 3; a = c  # two
            while c: c -= 1; b += 1
            return None
        """, """
        def f(a):
            import math
            import re
            b = 1
            print(f'b: {b}')
            c = 2
            print(f'c: {c}')
            if a:
                return_val = b
                print(f'return_val: {return_val}')
                return b
            elif b:
                pass
            else:
                c = 3
                print(f'c: {c}')
                a = c
                print(f'a: {a}')
            while c:
                c -= 1
                b += 1
            print(f'c: {c}')
            print(f'b: {b}')
            return_val = None
            print(f'return_val: {return_val}')
            return return_val
        """),
    "line continuations": ("""
        def f(a):
            b = a + \\
                1
            if b: \\
                c = 1; \\
                d = 2
            a = b \\

            return \\
                b
        """, """
        def f(a):
            b = a + 1
            print(f'b: {b}')
            if b:
                c = 1
                print(f'c: {c}')
                d = 2
                print(f'd: {d}')
            a = b
            print(f'a: {a}')
            return_val = b
            print(f'return_val: {return_val}')
            return b
        """),
    "what a walrus or a case binds has no anchor": ("""
        def f(xs):
            if (n := len(xs)) > 2:
                pass
            else:
                pass
            if (m := n):
                pass
            elif n:
                pass
            match xs:
                case [first, *_]:
                    return first
            return
        """, """
        def f(xs):
            if (n := len(xs)) > 2:
                pass
            else:
                pass
            if (m := n):
                pass
            elif n:
                pass
            match xs:
                case [first, *_]:
                    return_val = first
                    print(f'return_val: {return_val}')
                    return first
            return
        """),
    "a body on the line of its def": ("def f(a): a += 1; return a", """
        def f(a):
            a += 1
            print(f'a: {a}')
            return_val = a
            print(f'return_val: {return_val}')
            return a
        """),
    "only the last function, and not what is nested in it": ("""
        def g(x):
            y = x
            return y
        def f(x):
            def inner(z):
                w = z
                return w
            class C:
                v = 1
            t = lambda u: u
            return inner(x)
        """, """
        def g(x):
            y = x
            return y
        def f(x):
            def inner(z):
                w = z
                return w
            class C:
                v = 1
            t = lambda u: u
            print(f't: {t}')
            return_val = inner(x)
            print(f'return_val: {return_val}')
            return return_val
        """),
}


@pytest.mark.parametrize("title", LAYOUT)
def test_layout(title):
    before, after = LAYOUT[title]
    assert augment.instrument(text(before)) == text(after)


@pytest.mark.parametrize("newline, indent", [("\r\n", "    "), ("\r", "  "), ("\n", "\t")])
def test_indentation_and_comments_are_the_programs_own(newline, indent):
    code = "def f(a):\n\tif a:\n\t\treturn 'ä' + 'b'  # ö\n\ta = '''x\n\ty'''\n\tb = 'é' + a;\n\n\n\treturn b\n"
    expected = ("def f(a):\n\tif a:\n\t\treturn_val = 'ä' + 'b'  # ö\n\t\tprint(f'return_val: {return_val}')\n\t\treturn return_val\n"
                "\ta = '''x\n\ty'''\n\tprint(f'a: {a}')\n\tb = 'é' + a;\n\tprint(f'b: {b}')\n\n\n"
                "\treturn_val = b\n\tprint(f'return_val: {return_val}')\n\treturn b\n")
    assert augment.instrument(code.replace("\t", indent).replace("\n", newline)) == expected.replace("\t", indent)


UNCHANGED = {
    "no function": "x = 1\n",
    "nothing to show": "def f():\n    '''doc'''\n    pass\n",
    "generator": "def f(n):\n    x = n\n    yield x\n",
    "coroutine": "async def f(n):\n    x = n\n    return x\n",
    "lambda": "f = lambda x: x + 1\n",
    "another print": "def f(print):\n    x = 1\n    return x\n",
    "bare return": "def f():\n    return\n",
    "annotation without a value": "def f():\n    x: int\n",
}


@pytest.mark.parametrize("title", UNCHANGED)
def test_unchanged(title):
    assert augment.instrument(UNCHANGED[title]) == UNCHANGED[title]


# What the run prints, by hand: (body of f, call, anchors). `r` stands for return_val.
RUNS = {
    "tuple, starred and chained targets": (
        "(a, [b, *c]), d = e = (1, (2, 3, 4)), 5", "f()", "a=1 b=2 c=[3, 4] d=5 e=((1, (2, 3, 4)), 5)"),
    "augmented, annotated and unpacked": ("a: int = 2\na *= 3\n_, b = a, a", "f()", "a=2 a=6 b=6"),
    "items and attributes show the base name": (
        "d['k'] = [1]\nd['k'][0] = 2\nd['k'] += [3]\ndel d['k'][0]", "f({})", "d={'k': [1]} d={'k': [2]} d={'k': [2, 3]} d={'k': [3]}"),
    "changes in place": ("d.append(3)\nd.sort()\nx = d.pop()\nd[0:1] = []", "f([2, 1])", "d=[2, 1, 3] d=[1, 2, 3] x=3 d=[1, 2] d=[2]"),
    "a call that changes nothing": ("d.count(3)\nprint(d)", "f([2])", ""),
    "walrus": ("x = (y := 3) + 1\nd and (z := 1)", "f(0)", "x=4"),
    "walrus in a comprehension": ("x = [(y := i) for i in d]", "f([])", "x=[]"),
    "a comprehension's own name": ("x = [i for i in d]\nfor k in d:\n    i = k", "f([])", "x=[]"),
    "try, else and finally": (
        "try:\n    x = 1\n    x = 1 / d\nexcept ZeroDivisionError as e:\n    x = 2\nelse:\n    x = 3\nfinally:\n    y = 4\nreturn x", "f(0)",
        "x=1 x=2 y=4 r=2"),
    "return in try, changed by finally": ("try:\n    return d\nfinally:\n    d = 5", "f(1)", "r=1 d=5"),
    "with": ("import contextlib\nwith contextlib.nullcontext(3) as n:\n    x = n\nreturn x", "f()", "x=3 r=3"),
    "match": ("match d:\n    case {'k': v, **rest}:\n        x = v\n    case _: x = 0\nreturn x", "f({'k': 1, 'l': 2})", "x=1 r=1"),
    "global": ("global g\ng = d\ng += 1", "f(1)", "g=1 g=2"),
    "a deleted name": ("x = 1\ndel x\nfor i in d:\n    x = i", "f([])", "x=1"),
    "the name of a handler is deleted": ("e = 1\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n    pass\nfor i in d:\n    e = i", "f([])", "e=1"),
    "bound in one branch only": ("if d:\n    x = 1\nfor i in []:\n    x = i", "f(0)", ""),
    "bound in both branches": ("if d:\n    x = 1\nelse:\n    x = 2\nfor i in []:\n    x = i", "f(0)", "x=2 x=2"),
    "bound in a try and in its handler": ("try:\n    x = 1\nexcept ValueError:\n    x = 2\nfor i in []:\n    x = i", "f()", "x=1 x=1"),
    "bound in a try only": ("try:\n    x = 1\nexcept ValueError:\n    pass\nfor i in []:\n    x = i", "f()", "x=1"),
    "bound or gone": ("if d:\n    x = 1\nelse:\n    return 0\nfor i in [7]:\n    x = i", "f(1)", "x=1 x=7"),
    "a loop that runs zero times": ("for i in d:\n    x = i\nwhile d:\n    d.pop()", "f([])", "d=[]"),
    "loops in loops": ("n = 0\nfor i in d:\n    m = 0\n    for j in d:\n        n += j\n        m += 1", "f([1, 2])", "n=0 n=6"),
    "return out of nested loops": ("for i in d:\n    while True: return i", "f([4])", "r=4"),
    "a return that falls through": ("x = 1", "f()", "x=1"),
    "nested function": ("def g(a):\n    b = a\n    return b\nx = g(2)\nreturn x", "f()", "x=2 r=2"),
    "nonlocal": ("x = 1\ndef g():\n    nonlocal x\n    x = 2\ng()\nreturn x", "f()", "x=1 r=2"),
    "comprehension names are not the function's": ("x = [i for i in d]\nreturn {k: v for k, v in enumerate(x)}", "f([5])", "x=[5] r={0: 5}"),
    "names of comprehensions and annotations in a loop": ("i = 0\nfor x in d:\n    [i for i in x]\n    i: int", "f([[1]])", "i=0"),
    "a docstring and a decorator inside": ("'''doc'''\nimport functools\n@functools.cache\ndef g():\n    return 1\nreturn g()", "f()", "r=1"),
    "return_val as a variable": ("return_val = d\nreturn_val += 1\nif d: return d\nreturn return_val", "f(0)", "r=0 r=1 r=1"),
    "return_val seen from a closure": ("return_val = [d]\ng = (lambda: return_val)()\nreturn g[0] + 1", "f(3)", "r=[3] g=[3]"),
    "return_val seen from finally": ("return_val = 1\ntry:\n    return d\nfinally:\n    d = return_val", "f(3)", "r=1 d=1"),
    "return_val is global": ("return return_val + d", "f(1)", ""),
    "an address": ("x = object()\nreturn 1", "f()", None),
}


@pytest.fixture(scope="module")
def runs():
    """title -> (trace of P, trace of P')."""
    jobs = []
    for body, call, _ in RUNS.values():
        body = body.replace("\n", "\n    ")
        code = f"return_val = 4\ndef f(d=None):\n    {body}\n" if "is global" in body or "return_val + d" in body else f"def f(d=None):\n    {body}\n"
        jobs += [(code, call), (augment.instrument(code), call)]
    traces = list(sandbox.trace_many(jobs))
    return dict(zip(RUNS, zip(traces[::2], traces[1::2])))


@pytest.mark.parametrize("title", RUNS)
def test_run(runs, title):
    original, anchored = runs[title]
    assert (anchored.status, anchored.error) == ("ok", "")
    assert (original.value, original.stdout) == (anchored.value, anchored.stdout)
    if RUNS[title][2] is not None:
        assert " ".join(f"{'r' if name == 'return_val' else name}={value}" for _, name, value in anchored.anchors) == RUNS[title][2]


def test_a_local_name_is_not_the_modules():
    """g of the function is unbound when the loop runs zero times; CACHE is the module's and changes in place."""
    code = "g = 1\nCACHE = {}\ndef f(xs):\n    for x in xs:\n        g = x\n    CACHE[1] = 2\n    return 3"
    trace = sandbox.trace(augment.instrument(code), "f([])")
    assert [(name, value) for _, name, value in trace.anchors] == [("CACHE", "{1: 2}"), ("return_val", "3")]


@pytest.mark.skipif(not DATA.is_file(), reason="STEPCODE_DATA names no folder with cruxeval.jsonl")
def test_cruxeval():
    """A hundred real programs: no result changes, every response earns all its rewards, in both tasks. (All 800 keep 796.)"""
    rows = [json.loads(line) for line in DATA.open()][::8]
    report = augment.Report()
    examples = list(augment.build(rows, task="both", report=report))
    assert report.programs == 100 and report.dropped["the anchors change the result, or it is another in each run"] == 0
    assert report.kept["output"] + report.dropped["another text under another hash seed"] + report.dropped["an address in the text"] == 100
    steps, masks, finals = rewards.score_many([example["response"] for example in examples], examples)
    assert all(map(all, steps)) and all(map(all, masks)) and all(finals)
    outputs = {row["id"]: row["output"] for row in rows}
    assert all(rewards.same_literal(example["output"], outputs[example["id"].rpartition("-")[0]]) for example in examples)


# ---------------------------------------------------------------------------------------------------------------------
# Examples


def make(code, call, **options):
    """(examples, report) of one program."""
    report = augment.Report()
    return list(augment.build([{"id": "p", "code": text(code), "call": call}], report=report, **options)), report


SUM = """
    def f(a, b):
        c = a + b
        return c
    """


def test_an_example_of_output_prediction():
    [example], _ = make(SUM, "f(3, 4)", prompt="bare")
    anchored = augment.instrument(text(SUM))
    assert example == {
        "id": "p", "code": text(SUM), "instrumented": anchored, "call": "f(3, 4)", "anchors": [["c", "7"], ["return_val", "7"]], "output": "7",
        "task": "output", "prompt": anchored + "\nassert f(3, 4) == ??",
        "response": "<reasoning>c = 3 + 4</reasoning><print>c: 7</print><reasoning>return_val = 7</reasoning><print>return_val: 7</print>"
                    "<reasoning>return_val</reasoning><answer>7</answer>"}


def test_an_example_of_input_prediction():
    [example], _ = make(SUM, "f(3, 4)", prompt="bare", task="input")
    assert example["prompt"] == augment.instrument(text(SUM)) + "\nassert f(??) == 7"
    assert example["response"] == (
        "<reasoning>return_val = 7 = c</reasoning><input>3, 4</input><reasoning>c = 3 + 4</reasoning><print>c: 7</print>"
        "<reasoning>return_val = 7</reasoning><print>return_val: 7</print><reasoning>input</reasoning><answer>3, 4</answer>")


def test_the_instruct_prompt_explains_and_ends_as_the_bare_one():
    for task in ("output", "input"):
        bare, instruct = (make(SUM, "f(3, 4)", task=task, prompt=style)[0][0]["prompt"] for style in ("bare", "instruct"))
        assert instruct.endswith("\n\n" + bare) and "<print>NAME: value</print>" in instruct and "<answer>" in instruct
        assert ("<input>" in instruct) == (task == "input")


def test_a_run_that_returns_nothing_says_so():
    [example] = make("def f(a):\n    b = a", "f(3)", task="input")[0]
    assert example["response"].startswith("<reasoning>return_val = None</reasoning><input>3</input>")
    [example] = make("def f(a):\n    b = a", "f(3)")[0]
    assert example["response"].endswith("<reasoning>return_val = None</reasoning><answer>None</answer>")


def test_both_tasks_have_ids_of_their_own():
    examples, report = make(SUM, "f(3, 4)", task="both")
    assert [example["id"] for example in examples] == ["p-output", "p-input"] and report.kept == {"output": 1, "input": 1}


REASONING = {
    "a branch not taken, then one taken": (
        "if a > 5:\n    b = 1\nelif a:\n    b = a\nreturn b", "f(3)", ["if 3 > 5; if 3; b = 3", "return_val = 3"]),
    "a branch passed by": ("b = 1\nif a > 5:\n    b = 2\nreturn b + a", "f(3)", ["b = 1", "if 3 > 5; return_val = 1 + 3"]),
    "a branch left": ("if a:\n    b = 1\n    pass\nreturn b", "f(3)", ["if 3; b = 1", "return_val = 1"]),
    "a docstring and an import": ("'what it does'\nimport math\nb = a", "f(3)", ["b = 3"]),
    "augmented": ("a += 4\na //= 2", "f(3)", ["a = 3 + 4", "a = 7 // 2"]),
    "changed in place": ("a.append(1)\na[0] = 5", "f([2])", ["[2].append(1)", "[2, 1][0] = 5"]),
    "a loop": ("s = 0\nfor x in a:\n    if x > 1:\n        s += x\nreturn s", "f([1, 2])",
               ["s = 0", "for x in [1, 2]: if x > 1: s += x; s = 0", "return_val = 2"]),
    "a return out of a loop": ("for x in a:\n    y = x\n    if x: return y * 2\nreturn 0", "f([1, 2])",
                               ["for x in [1, 2]: y = x; if x: return y * 2; return_val = y * 2"]),
    "two names at once": ("b, c = a, a", "f(3)", ["b, c = (3, 3)", "b, c = (3, 3)"]),
    "text that looks like a number": ("b = a + '1'\nreturn b + b", "f('3')", ["b = '3' + '1'", "return_val = '31' + '31'"]),
    "aliases": ("b = a\nb.append(1)\nreturn a", "f([])", ["b = []", "[].append(1)", "return_val = [1]"]),
    "names of comprehensions": ("return [a for a in a]", "f([1])", ["return_val = [a for a in a]"]),
    "no literal": ("b = range(a)\nreturn sum(b)", "f(3)", ["b = range(3)", "return_val = sum(b)"]),
    "too long": ("b = a + a\nreturn len(b)", f"f('{'x' * 150}')", ["b = a + a", "return_val = len(b)"]),
    "defaults are states too": ("return a + k", "f(1)", ["return_val = 1 + 2"]),
    "recursion": ("return a and f(a - 1)", "f(1)", ["return_val = a and f(a - 1)"] * 2),
    "try": ("try:\n    b = int(a)\nexcept ValueError:\n    b = -1\nreturn b", "f('x')", ["b = int('x'); b = -1", "return_val = -1"]),
    "a change in a test": ("if a.pop() in a:\n    return a\nreturn len(a)", "f([1, 2])", ["if a.pop() in a; return_val = len(a)"]),
    "a change in what is matched": ("match a.pop():\n    case 2:\n        return a", "f([1, 2])", ["match [1, 2].pop(); return_val = a"]),
    "a change that no anchor shows": ("if a:\n    b = 1\nfor i in [4]:\n    b = i + 5\nreturn b", "f(3)",
                                      ["if 3; b = 1", "for i in [4]: b = i + 5; return_val = b"]),
    "a value that no anchor showed": ("for x in a: pass\nb = 1\nreturn x", "f([2])", ["for x in [2]: pass; b = 1", "return_val = x"]),
    "another value of the same name": ("import contextlib\nwith contextlib.nullcontext(5) as a:\n    b = a", "f(3)",
                                       ["with contextlib.nullcontext(5) as a; b = a"]),
    "rows of a list": ("for row in a:\n    row.append(1)\nn = len(a[0])", "f([[5], [6]])", ["for row in a: row.append(1); n = len(a[0])"]),
    "an alias changed in a loop": ("c = a\nfor x in [3]:\n    c.append(x)\n    if len(a) > 1: return a", "f([1])",
                                   ["c = [1]", "for x in [3]: c.append(x); if len(a) > 1: return a; c = [1]; return_val = a"]),
    "changed by a function": ("import heapq\nheapq.heappush(a, 1)\nn = len(a)", "f([5])", ["heapq.heappush(a, 1); n = len(a)"]),
    "changed by a function within": ("def add():\n    nonlocal a\n    a += 10\nadd()\nb = a + 1", "f(3)", ["add(); b = a + 1"]),
    "changed and read again": ("a = [a.pop(0)] + a", "f([1, 2])", ["a = [a.pop(0)] + a"]),
    "bound and read again": ("b = (a := a + 1) + a", "f(3)", ["b = (a := (a + 1)) + a", "b = (a := (a + 1)) + a"]),
    "bound and not read again": ("b = (a := k + 1)", "f(3)", ["b = (a := (2 + 1))", "b = (a := (2 + 1))"]),
    "a branch whose change no anchor shows": ("b = list(a)\nif len(a) > 1:\n    b.append(7)\nn = len(b)\ndel b\nreturn n", "f([1, 2])",
                                              ["b = list([1, 2])", "if len([1, 2]) > 1; n = len(b)", "del b; return_val = 3"]),
    "a return that failed": ("try:\n    return int(a)\nexcept ValueError:\n    return -1", "f('c')", ["return_val = int('c'); return_val = -1"]),
    "its own name for what it returns": ("for x in a:\n    return_val = x * 2\n    if return_val > 3:\n        return return_val", "f([1, 2])",
                                         ["for x in [1, 2]: return_val = x * 2; if return_val > 3: return return_val; if return_val > 3"]),
    "a function in a loop": ("for x in a:\n    def g(y):\n        return y\n    if g(x) > 1: return g(x)", "f([1, 2])",
                             ["for x in [1, 2]: def g(y): return y; if g(x) > 1: return g(x); return_val = g(x)"]),
    "nothing but a constant in a branch": ("for x in a:\n    if x == 1: ...\n    else: return x", "f([1, 2])",
                                           ["for x in [1, 2]: if x == 1: pass; else: return x; return_val = x"]),
    "match and with": ("import contextlib as c\nwith c.nullcontext():\n    match a:\n        case 3: b = 1\n        case _: b = 2", "f(3)",
                       ["with c.nullcontext(); match 3; b = 1"]),
}


@pytest.mark.parametrize("title", REASONING)
def test_reasoning(title):
    body, call, expected = REASONING[title]
    [example], _ = make("def f(a, k=2):\n    " + body.replace("\n", "\n    "), call)
    assert [part.partition("</reasoning>")[0] for part in example["response"].split("<reasoning>")[1:-1]] == expected


def test_what_a_lambda_in_a_default_binds_is_no_parameter():
    # with `item` taken for one, P' would print it after the loop, and fail on an empty list
    code = "def f(xs, key=lambda item: -item):\n    total = 0\n    for item in xs:\n        total += key(item)\n    return total"
    assert "print(f'item" not in augment.instrument(code) and sandbox.trace(augment.instrument(code), "f([])").value == "0"


def test_both_forms_of_a_program_end_their_lines_alike():
    [example], _ = make("def f(x):\r\n    y = x\r\n    return y", "f(1)", no_anchors=1.0)
    assert "\r" not in example["prompt"] and "\r" not in example["code"]


@pytest.mark.parametrize("code, expected", [
    ("from reprlib import repr\ndef f(a, b=2, c=3, d=4, e=5):\n    s = repr([a, b, c, d, e])\n    return s", "s = repr([1, 2, 3, 4, 5])"),  # of five names it shows four
    ("def repr(x):\n    return '<' + str(x) + '>'\ndef f(a):\n    s = repr(a)\n    return s", "s = repr(1)"),
    ("def f(a):\n    print('\\0')\n    s = str(a)\n    return s", "print('\\x00'); s = str(a)")])  # then the values cannot be told
def test_programs_that_are_in_the_way_of_the_values_end_no_run(code, expected):
    [example], _ = make(code, "f(1)")
    assert f"<reasoning>{expected}</reasoning><print>s: " in example["response"]


def test_a_value_that_ends_in_a_newline_survives_reading():
    [example], _ = make("def f(a):\n    b = a + '\\n'\n    return b", r"f('x')")
    assert example["anchors"][0] == ["b", "x\n"]
    assert rewards.parse(example["response"]).blocks[0].text == "b: x\n"
    assert rewards.score(example["response"], example) == ([1.0, 1.0], [True, True], 1.0)


def test_what_a_lambda_names_is_not_filled_in():
    [example], _ = make("def f(a):\n    return sorted([3, 1], key=lambda a: -a) + [a]", "f(2)")
    assert "return_val = sorted([3, 1], key=lambda a: -a) + [a]" in example["response"]


def test_the_entry_of_a_row_is_what_its_input_calls():
    [example] = augment.build([{"id": "p", "code": "def g(x):\n    y = x\n    return y\ndef h(x):\n    return 0", "entry": "g", "input": "1"}])
    assert example["call"] == "g(1)" and example["output"] == "1"


def test_what_finally_binds_is_bound():
    code = "def f(d):\n    try:\n        pass\n    finally:\n        y = 4\n    for i in d:\n        y = i"
    assert [(name, text) for _, name, text in sandbox.trace(augment.instrument(code), "f([])").anchors] == [("y", "4"), ("y", "4")]


@pytest.mark.parametrize("code, call, tasks, reason", [
    ("def f(a):\n    return_val = a\n    return hash('x') % 10 ** 6", "f(1)", ("output",), "another text under another hash seed"),  # its anchor shows the same
    ("def f(a, b):\n    a.append(1)\n    return len(b)", "f(*[[]] * 2)", ("input",), "the arguments as literals give another run (input prediction)"),  # a is b
    ("def f(a, b):\n    c = b\n    return c", "f('</input>', 1)", ("output", "input"), "a text contains a tag of the format")])
def test_what_only_one_check_sees(code, call, tasks, reason):
    for task in tasks:
        examples, report = make(code, call, task=task)
        assert not examples and report.dropped == {reason: 1}


def test_arguments_that_are_no_literals_are_written_as_literals_or_dropped():
    [example], _ = make("def f(d, k=1):\n    return len(d) + k", "f(dict(a=1))", task="input")
    assert example["response"].endswith("<answer>{'a': 1}, 1</answer>")
    examples, report = make("def f(g):\n    return g(1)", "f(lambda x: x)", task="both")
    assert [example["task"] for example in examples] == ["output"]
    assert report.dropped == {"the arguments are no literals (input prediction)": 1}


DROPS = {
    "syntax error": ("def f(:", "f()"),
    "nested too deeply": ("def f():\n    return " + "+".join(["1"] * 5000), "f()"),
    "the call is not of a function that the program defines": ("def f():\n    return 1", "g()"),
    "the call is of a method": ("class A:\n    def f(self):\n        return 1\ndef g():\n    return 1", "A().f()"),
    "no function is defined at the top level": ("print(int(input()) + 1)", "1"),
    "the program does not run: ZeroDivisionError": ("def f():\n    x = 1\n    return 1 / 0", "f()"),
    "the anchors change the result, or it is another in each run": ("import inspect\ndef f():\n    x = 1\n    return len(inspect.currentframe().f_code.co_names)", "f()"),
    "with its anchors the program does not run: ZeroDivisionError": (
        "def f():\n    class A:\n        def __repr__(self): return str(1 / 0)\n    a = A()\n    return 1", "f()"),
    "an anchor inside a loop": ("def f(xs):\n    for x in xs:\n        print(f'x: {x}')\n    return 1", "f([1])"),
    "no anchor is printed": ("def f(a):\n    if a: return 1", "f(0)"),
    "more than 3 anchors": ("def f():\n    a = 1\n    b = 2\n    c = 3\n    return c", "f()"),
    "another text under another hash seed": ("def f():\n    a = {'ab', 'cd', 'ef', 'gh'}\n    return 1", "f()"),
    "an address in the text": ("def f():\n    a = print\n    b = object.__new__(type('T', (), {'__repr__': lambda s: 'T at 0x1'}))\n    return 1", "f()"),
    "the result is no literal": ("def f():\n    return range(3)", "f()"),
    "a text contains a tag of the format": ("def f():\n    return '</print>'", "f()"),
    "a text that UTF-8 cannot hold": ("def f():\n    a = '\\ud800'\n    return 1", "f()"),
}


@pytest.mark.parametrize("terms", [300, 5000])  # Python reads the first, but what copies and writes syntax trees does not
def test_deep_nesting_is_a_drop(terms):
    examples, report = make("def f():\n    return " + "+".join(["1"] * terms), "f()")
    assert not examples and report.dropped == {"nested too deeply": 1}


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python writes every f-string")
@pytest.mark.parametrize("line", ["return f\"{'\u00a0'.join(xs)}\"", "s = f\"{'\u00a0'.join(xs)}\"\n    return s"])
def test_an_f_string_that_ast_cannot_write_is_a_drop(line):
    examples, report = make(f"def f(xs):\n    {line}", "f(['a', 'b'])")
    assert not examples and report.dropped == {augment.UNWRITABLE: 1}


def test_drops_are_counted_by_reason():
    report = augment.Report()
    rows = [{"id": reason, "code": code, "call": call} for reason, (code, call) in DROPS.items()]
    good = {"id": "good", "code": text(SUM), "call": "f(1, 2)"}
    kept = list(augment.build([*rows[:5], good, *rows[5:], good], max_anchors=3, report=report))
    assert [example["id"] for example in kept] == ["good", "good"]
    assert {reason: ids for reason, ids in report.dropped_ids.items()} == {reason: [reason] for reason in DROPS}
    assert (report.programs, sum(report.dropped.values()), report.kept["output"]) == (len(DROPS) + 2, len(DROPS), 2)


def test_what_a_program_prints_must_not_change_either():
    examples, report = make("import inspect\ndef f():\n    x = 1\n    print(inspect.currentframe().f_lineno)\n    return 1", "f()")
    assert not examples and report.dropped == {"the anchors change the result, or it is another in each run": 1}


def test_build_reads_no_further_than_it_must():
    """Memory stays constant: of an endless stream only a bounded number is in flight."""
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield {"id": str(len(taken)), "code": text(SUM), "input": f"{len(taken)}, 0"}

    stream = augment.build(endless())
    assert [next(stream)["output"] for _ in range(3)] == ["1", "2", "3"]
    assert len(taken) < 500
    stream.close()


# ---------------------------------------------------------------------------------------------------------------------
# Variants of the examples


def test_without_decoupled_tasks_both_have_one_form():
    output, given = make(SUM, "f(3, 4)", task="both", decouple=False)[0]
    instructions = [example["prompt"].partition("def f")[0] for example in (output, given)]
    assert instructions[0] == instructions[1] and output["prompt"].endswith("f(3, 4) == ??") and given["prompt"].endswith("f(??) == 7")
    steps = ("<input>3, 4</input><reasoning>c = 3 + 4</reasoning><print>c: 7</print>"
             "<reasoning>return_val = 7</reasoning><print>return_val: 7</print>")
    assert output["response"] == f"<reasoning>input</reasoning>{steps}<reasoning>return_val</reasoning><answer>7</answer>"
    assert given["response"] == f"<reasoning>return_val = 7 = c</reasoning>{steps}<reasoning>input</reasoning><answer>3, 4</answer>"
    assert all(augment.perfect(example["response"], example) for example in (output, given))


def test_without_anchors():
    output, given = make(SUM, "f(3, 4)", task="both", prompt="bare", no_anchors=1.0)[0]
    assert output["prompt"] == text(SUM) + "\nassert f(3, 4) == ??" and output["anchors"] == [] and output["instrumented"] == text(SUM)
    assert output["response"] == "<reasoning>c = 3 + 4; return_val = 7</reasoning><answer>7</answer>"
    assert given["response"] == ("<reasoning>return_val = 7 = c</reasoning><input>3, 4</input>"
                                 "<reasoning>c = 3 + 4; return_val = 7; input</reasoning><answer>3, 4</answer>")
    assert all(rewards.score(example["response"], example) == ([], [], 1.0) for example in (output, given))
    [example], _ = make(SUM, "f(3, 4)", no_anchors=1.0)
    assert "print" not in example["prompt"]


# ---------------------------------------------------------------------------------------------------------------------
# Anchors in loops: --loop-anchors


EARLY = """
    def f(xs):
        s = 0
        for x in xs:
            s += x
            if s > 4:
                return s
        return -s
    """


def test_where_the_anchors_of_loops_go():
    """A counter that is no name of the program; nothing in a loop within a loop, nor in an else; no counter without an anchor."""
    before = """
        def f(xs, step):
            s = 0
            for x in xs:
                for y in x: s += y
                x.append(s)
                if s > 9: return s
            else:
                s -= 1
            while s: s -= 1; xs = []
            for x in xs:
                print(x)
            return s
        """
    after = """
        def f(xs, step):
            s = 0
            print(f's: {s}')
            step_ = 0
            for x in xs:
                step_ += 1
                for y in x:
                    s += y
                if step_ <= 2: print(f's: {s}')
                x.append(s)
                if step_ <= 2: print(f'x: {x}')
                if s > 9:
                    return_val = s
                    print(f'return_val: {return_val}')
                    return s
            else:
                s -= 1
            print(f's: {s}')
            step_ = 0
            while s:
                step_ += 1
                s -= 1
                if step_ <= 2: print(f's: {s}')
                xs = []
                if step_ <= 2: print(f'xs: {xs}')
            print(f's: {s}')
            print(f'xs: {xs}')
            for x in xs:
                print(x)
            return_val = s
            print(f'return_val: {return_val}')
            return s
        """
    assert augment.instrument(text(before), loop_anchors=2) == text(after)


def test_a_counter_stands_above_the_decorator_of_what_begins_a_loop():
    code = "def f(n):\n    for i in range(3):\n        @abs.__class__\n        def g(): pass\n        n += i\n    return n"
    assert "        step += 1\n        @abs.__class__\n        def g(): pass\n" in augment.instrument(code, loop_anchors=1)


UNROLLED = {  # body, call, K: the states, and the reasoning before each
    "two iterations, then the whole loop from where they end": (EARLY, "f([1, 2, 3, 4])", 2, ["s: 0", "s: 1", "s: 3", "return_val: 6"], [
        "s = 0", "for x in [1, 2, 3, 4]; x = 1; s = 0 + 1", "x = 2; s = 1 + 2",
        "for x in [1, 2, 3, 4]: s += x; if s > 4: return s; x = 2; s = 3; return_val = s"]),
    "a return in an iteration that is shown": (EARLY, "f([1, 4, 3])", 2, ["s: 0", "s: 1", "s: 5", "return_val: 5"], [
        "s = 0", "for x in [1, 4, 3]; x = 1; s = 0 + 1", "x = 4; s = 1 + 4", "if 5 > 4; return_val = 5"]),
    "the last iteration is shown after the loop": (EARLY, "f([1, 2, 0])", 2, ["s: 0", "s: 1", "s: 3", "s: 3", "return_val: -3"], [
        "s = 0", "for x in [1, 2, 0]; x = 1; s = 0 + 1", "x = 2; s = 1 + 2",
        "for x in [1, 2, 0]: s += x; if s > 4: return s; x = 2; s = 3", "return_val = -3"]),
    "no iteration at all": (EARLY, "f([])", 2, ["s: 0", "s: 0", "return_val: 0"],
                            ["s = 0", "for x in []: s += x; if s > 4: return s; s = 0", "return_val = -0"]),
    "an anchor of another branch, in another iteration": (  # the second anchor stands below the first, and yet an iteration later
        "def f(n):\n    while n < 9:\n        if n % 2:\n            n += 3\n        else:\n            n = n * 2\n    return n", "f(1)", 2,
        ["n: 4", "n: 8", "n: 16", "return_val: 16"],
        ["while 1 < 9; if 1 % 2; n = 1 + 3", "while 4 < 9; if 4 % 2; n = 4 * 2", "while n < 9: if n % 2: n += 3; else: n = n * 2; n = 8", "return_val = 16"]),
    "two loops": ("def f(n):\n    for i in range(2):\n        n += i\n    for i in range(1):\n        i = n\n        n = i\n", "f(5)", 1,
                  ["n: 5", "n: 6", "i: 6", "n: 6", "n: 6"],
                  ["for i in range(2); i = 0; n = 5 + 0", "for i in range(2): n += i; i = 0; n = 5", "for i in range(1); i = 6", "n = 6",
                   "for i in range(1): i = n; n = i; i = 6; n = 6"]),
    "a test that changes what it tests": (
        "def f(n):\n    t = 0\n    while (n := n - 1) > 0:\n        t += n\n    return t", "f(3)", 2, ["t: 0", "t: 2", "t: 3", "n: 0", "t: 3", "return_val: 3"],
        ["t = 0", "while (n := (3 - 1)) > 0; t = 0 + n", "while (n := (2 - 1)) > 0; t = 2 + n", "while (n := (n - 1)) > 0: t += n; n = 1; t = 3",
         "while (n := (n - 1)) > 0: t += n; n = 1; t = 3", "return_val = 3"]),
    "rows": ("def f(a):\n    n = 0\n    for row in a:\n        row.append(1)\n        n += len(a)\n    return n", "f([[5], [6]])", 1,
             ["n: 0", "row: [5, 1]", "n: 2", "n: 4", "return_val: 4"],
             ["n = 0", "for row in a; row.append(1)", "n = 0 + len([[5, 1], [6]])", "for row in a: row.append(1); n += len(a); row = [5, 1]; n = 2", "return_val = 4"]),
}


@pytest.mark.parametrize("title", UNROLLED)
def test_states_and_reasoning_of_anchors_in_loops(title):
    code, call, iterations, states, reasoning = UNROLLED[title]
    plain, (example,) = make(code, call)[0], make(code, call, loop_anchors=iterations)[0]
    parsed = rewards.parse(example["response"])
    assert [block.text for block in parsed.blocks] == states
    assert [part.partition("</reasoning>")[0] for part in example["response"].split("<reasoning>")[1:-1]] == reasoning
    assert augment.perfect(example["response"], example) and example["output"] == plain[0]["output"]


def test_anchors_in_loops_match_by_position_and_each_one_printed_counts():
    """K = 9 on ten numbers: 1 before the loop, 9 in it, 1 after it, 1 of the return are 12; K = 7 makes 10."""
    code = "def f(xs):\n    s = 0\n    for x in xs:\n        s += x\n    return s"
    ten = {"id": "p", "code": code, "input": str([1] * 10)}
    report = augment.Report()
    assert list(augment.build([ten], loop_anchors=9, report=report)) == [] and report.dropped == {"more than 10 anchors": 1}
    [example] = augment.build([ten], loop_anchors=7, task="input")
    assert len(example["anchors"]) == 10
    # Another right input, [10], has four states of its own, of which the third repeats the second; the other six are masked.
    response = augment.make_response([("s", 0), ("s", 10), ("s", 10), ("return_val", 10)], "[10]", [""] * 6, "[10]")
    assert rewards.score(response, example) == ([1.0] * 4 + [0.0] * 6, [True] * 4 + [False] * 6, 1.0)
    # An iteration left out in output prediction shifts what follows: the second s: 1, 2, ... is compared with 1.
    [example] = augment.build([{**ten, "input": "[1, 1]"}], loop_anchors=2)
    assert example["anchors"] == [["s", "0"], ["s", "1"], ["s", "2"], ["s", "2"], ["return_val", "2"]]
    shorter = example["response"].replace("<reasoning>for x in [1, 1]; x = 1; s = 0 + 1</reasoning><print>s: 1</print>", "")
    assert rewards.score(shorter, example)[0] == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_what_stands_after_a_loop_is_not_of_its_last_iteration():
    code = "def f(xs):\n    s = 0\n    for x in xs:\n        s += x\n    else:\n        return s + 1\n    return s"
    [example] = augment.build([{"id": "e", "code": code, "input": "[1, 2]"}], loop_anchors=2)
    before, _, _ = example["response"].partition("<print>return_val: 4</print>")
    assert before.endswith("x = 2; s = 3; return_val = s + 1</reasoning>") and before.count("<print>") == 3  # as without anchors in the loop


def test_names_that_a_pattern_binds_in_a_loop_are_not_filled_in_from_before_it():
    code = "def f(xs):\n    a = 1\n    t = 0\n    for x in xs:\n        match x:\n            case [a, b]:\n                t = a * b\n    return t"
    [example] = augment.build([{"id": "m", "code": code, "input": "[[2, 3]]"}])
    assert "t = a * b" in example["response"] and "1 * b" not in example["response"]


def test_addresses_are_in_no_reasoning():
    code = "def f(xs):\n    n = 0\n    for x in map(iter, xs):\n        n += next(x)\n    return n"
    [example] = augment.build([{"id": "i", "code": code, "input": "[[1], [2]]"}], loop_anchors=2)
    steps = [part.partition("</reasoning>")[0] for part in example["response"].split("<reasoning>")[2:]]
    assert steps[:2] == ["for x in map(iter, [[1], [2]]); n = 0 + next(x)", "n = 1 + next(x)"] and " at 0x" not in example["response"]


@pytest.mark.parametrize("name, start, limit", [("return_val", "''", "'b'"), ("step", "0.0", "0"), ("step", "0", "0")])
def test_a_programs_own_guards_are_no_counters_of_ours(name, start, limit):
    """Returns may be anchored in loops by the program itself, under a test that looks like a counter's."""
    code = f"def f(xs, {name}={start}):\n    return_val = xs[0]\n    for x in xs:\n        return_val += x\n        if {name} <= {limit}: " \
           "print(f'return_val: {return_val}')\n    return return_val"
    for iterations in (0, 2):
        [example] = augment.build([{"id": "a", "code": code, "input": "'ab'"}], loop_anchors=iterations)
        assert augment.perfect(example["response"], example) and example["output"] == "'aab'"


def test_what_anchors_in_loops_cost(tmp_path):
    """The sum of [7, 2] prints 3 anchors, then 4, 5 and 5, as it has two iterations: s is 0, 7, 9 in the loop and 9 after it. One program
    has a return only. One has four assignments in its loop, so that K = 3 makes 13 anchors and drops it from every comparison."""
    codes = ["def f(xs):\n    s = 0\n    for x in xs:\n        s += x\n    return s * 2", "def f(xs):\n    return xs",
             "def f(xs):\n    for x in xs:\n        a = b = c = d = x\n    return 0"]
    path = tmp_path / "programs.jsonl"
    path.write_text("".join(json.dumps({"id": str(k), "code": code, "input": "[7, 2]" if k < 2 else "[1, 2, 3]"}) + "\n" for k, code in enumerate(codes)))
    rows = look.loop_costs(str(path), len)
    assert [row["anchors"] for row in rows] == [2, 2.5, 3, 3, 3, 4, 5, 5] and [row["compared"] for row in rows] == [2] * 4 + [1] * 4
    assert [(row["K"], row["kept"], row["over 10 anchors"], row["other drops"]) for row in rows[:4]] == [(0, 3, 0, 0), (1, 3, 0, 0), (2, 3, 0, 0), (3, 2, 1, 0)]
    assert [row["repeated"] for row in rows[4:]] == [0, 0, 20, 20]  # the 9 after the loop is that of the second iteration
    look.draw_costs(rows, tmp_path / "costs.png")
    assert (tmp_path / "costs.png").stat().st_size > 5000
    path.write_text(json.dumps({"code": "def", "input": ""}))
    with pytest.raises(augment.BadInput, match="no program is kept"):
        look.loop_costs(str(path), len)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_file(), reason="needs CRUXEval: STEPCODE_DATA")
def test_anchors_in_loops_leave_every_program_of_cruxeval_its_result():
    report = augment.Report()
    rows, _ = augment.read_programs(str(DATA), "train", augment.FIELDS)
    examples = list(augment.build(rows, loop_anchors=3, max_anchors=30, task="both", report=report))
    assert "the anchors change the result, or it is another in each run" not in report.dropped and all(augment.perfect(example["response"], example) for example in examples)


def sums(count):
    """Rows of different programs with four anchors."""
    body = "    a = x + {k}\n    b = a + 1\n    c = b + 1\n    return c + a\n"
    return [{"id": f"s{k}", "code": "def f(x):\n" + body.format(k=k), "call": "f(1)"} for k in range(count)]


def test_a_share_is_without_anchors_and_which_ones_depends_on_the_seed():
    runs = [[not example["anchors"] for example in augment.build(sums(30), no_anchors=0.5, seed=seed)] for seed in (1, 1, 2)]
    assert 8 < sum(runs[0]) < 22 and runs[0] == runs[1] != runs[2]
    report = augment.Report()
    assert len(list(augment.build(sums(30), no_anchors=0.5, report=report))) == 30
    assert report.kept["output"] + report.kept["output, no anchors"] == 30 and report.anchors == {4: report.kept["output"]}


def test_a_share_of_anchors_is_dropped():
    """Of 60 x 4 anchors the last of each program stays; of the other 180 about 20% go, and nothing but their lines."""
    examples = list(augment.build(sums(60), drop_anchors=0.2))
    assert len(examples) == 60 and 20 < 240 - sum(len(example["anchors"]) for example in examples) < 55
    for example in examples:
        whole, lines = augment.instrument(example["code"]).splitlines(), example["instrumented"].splitlines()
        names = [name for name, _ in example["anchors"]]
        assert lines == [line for line in whole if not line.startswith("    print") or line[12:].partition(":")[0] in names]
        assert names[-1] == "return_val" and augment.perfect(example["response"], example)
    [example] = augment.build(sums(1), drop_anchors=1.0)
    assert example["anchors"] == [["return_val", "4"]]
    branch = "def f(x):\n    if x:\n        a = 1\n    b = 2\n    return b + x"  # the last one is the return's, not the branch's
    [example] = augment.build([{"id": "a", "code": branch, "call": "f(1)"}], drop_anchors=1.0)
    assert example["anchors"] == [["return_val", "3"]]
    alone = "def f(x):\n    if x:\n        print(f'x: {x}')\n    return x + 1"  # an anchor of the program's own, all that a branch has
    [example] = augment.build([{"id": "a", "code": alone, "call": "f(1)"}], drop_anchors=1.0)
    assert example["anchors"] == [["x", "1"], ["return_val", "2"]]


@pytest.mark.parametrize("call", ["(f)(3, 4)", "f(3, 4)  # )", "(f(3, 4))"])
def test_a_call_is_a_name_and_its_arguments(call):
    report = augment.Report()
    assert not list(augment.build([{"id": "a", "code": text(SUM), "call": call}], report=report))
    assert report.dropped == {"the call is not of a function that the program defines": 1}


# ---------------------------------------------------------------------------------------------------------------------
# Sources


def test_calls_from_tests():
    """Calls of the function in assertions, wherever they stand there; not of helpers, not with variables, none twice."""
    tests = "def check(candidate):\n    x = 3\n    assert candidate(1, b=[2]) == 3\n    assert candidate(x) and not f(1, b=[2])\n" \
            "    assert abs(candidate(4) - h(5)) < 1\n    candidate(6)\n    assert g(7)"
    assert augment.tested_calls(tests, {"f"}, "f") == ["f(1, b=[2])", "f(4)"]
    code = "def g(a):\n    b = a\n    return b\ndef f(a):\n    return g(a)"
    row = {"id": "p", "code": code, "tests": "assert g(1) == 1\nassert g(2) == 2\nassert g(3) == 3"}
    assert [example["call"] for example in augment.build([row])] == ["g(1)"]
    report = augment.Report()
    assert not list(augment.build([row | {"entry": "f"}], report=report))
    assert report.dropped == {"no call with literal arguments in the tests": 1}


def test_columns_of_the_benchmarks_and_of_ones_own():
    human = {"task_id": "HumanEval/0", "prompt": "def f(a):\n", "canonical_solution": "    return a\n", "test": "assert candidate(1)", "entry_point": "f"}
    assert augment.checked(human, "x/H.jsonl", 1, augment.FIELDS) == {
        "id": "HumanEval/0", "source": "H.jsonl", "code": "def f(a):\n    return a\n", "tests": "assert candidate(1)", "entry": "f"}
    mbpp = {"task_id": 2, "text": "Write", "code": "def f(a):\r\n\treturn a", "test_list": ["assert f(1)", "assert f(2)"]}
    assert augment.checked(mbpp, "mbpp.jsonl", 1, augment.FIELDS) == {
        "id": "2", "source": "mbpp.jsonl", "code": mbpp["code"], "tests": "assert f(1)\nassert f(2)"}
    mine = {"solution": "def f(a):\n    return a", "arguments": "3"}
    fields = augment.FIELDS | {"code": ["solution"], "input": ["arguments"]}
    assert augment.checked(mine, "mine.jsonl", 4, fields) == {
        "id": "mine_4", "source": "mine.jsonl", "code": mine["solution"], "input": "3"}


@pytest.mark.parametrize("name, count, kept", [("HumanEval.jsonl.gz", 164, 0.9), ("mbpp.jsonl", 974, 0.9)])
def test_benchmarks_are_read_as_they_are(name, count, kept):
    if not (DATA.parent / name).is_file():
        pytest.skip(f"STEPCODE_DATA names no folder with {name}")
    rows = list(augment.program_rows(DATA.parent / name, augment.FIELDS))
    examples = list(augment.build(rows[::10], task="both"))
    assert len(rows) == count and len(examples) >= 2 * kept * len(rows[::10])
    assert all(augment.perfect(example["response"], example) for example in examples[::5])


def test_a_hugging_face_data_set(monkeypatch, capsys, tmp_path, programs):
    """The real library streams; only where it finds the data is replaced."""
    import datasets

    load, asked = datasets.load_dataset, []

    def from_file(name, split, streaming):
        asked.append((name, split))
        path.write_text("".join(json.dumps({"solution": row["code"], "run": row["call"]}) + "\n" for row in sums(3)))
        return load("json", data_files=str(path), split="train", streaming=streaming, cache_dir=str(tmp_path))

    path, out = tmp_path / "hub.jsonl", tmp_path / "data.jsonl"
    monkeypatch.setattr(datasets, "load_dataset", from_file)
    flags = ["--programs", "someone/programs", programs, "--split", "test", "--fields", "code=solution", "call=run"]
    assert command(monkeypatch, capsys, *flags, "--out", out)[0] == 0
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert asked == [("someone/programs", "test")] and "datasets" in card["versions"]
    assert card["sources"] == {"programs": {"programs": 3, "kept": 3}, "programs.jsonl": {"programs": 3, "kept": 2}}


def test_grams_are_of_code_tokens():
    assert list(augment.grams("def f(a):  # sum\n\n    return a+'x y'\n", 5)) == [
        "def f ( a )", "f ( a ) :", "( a ) : return", "a ) : return a", ") : return a +", ": return a + 'x y'"]
    assert list(augment.grams("a b c (", 3)) == ["a b c", "b c ("] and list(augment.grams("def f(a): pass")) == []


def test_decontamination(monkeypatch, capsys, tmp_path, programs):
    """Programs with 10 tokens in a row of a benchmark's go, whatever their layout and comments; with 9 they stay."""
    benchmark, out = tmp_path / "bench.jsonl.gz", tmp_path / "data.jsonl"
    with gzip.open(benchmark, "wt") as file:
        file.write(json.dumps({"task_id": "b1", "prompt": "def total(xs, k):\n", "canonical_solution": "    return sum(xs[:k]) * 2"}))
    rows = [("ten", "def f(xs, k):  # mine\n    return sum(\n        xs[:k])"), ("nine", "def f(xs, k):\n    k += 1\n    return sum(xs[:k])")]
    programs.write_text("".join(json.dumps({"id": name, "code": code, "input": "[1], 1"}) + "\n" for name, code in rows))
    code, printed, _ = command(monkeypatch, capsys, "--programs", programs, "--out", out, "--decontaminate", benchmark)
    assert code == 0 and [json.loads(line)["id"] for line in out.open()] == ["nine"]
    assert "dropped      1  shares 10 tokens with a benchmark  (ten and bench.jsonl.gz b1: ( xs , k ) : return sum ( xs)" in printed


# ---------------------------------------------------------------------------------------------------------------------
# The command line


def command(monkeypatch, capsys, *arguments):
    """(exit code, stdout, stderr) of main()."""
    monkeypatch.setattr(sys, "argv", ["augment.py", *map(str, arguments)])
    try:
        augment.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


@pytest.fixture
def programs(tmp_path):
    path = tmp_path / "programs.jsonl"
    path.write_text(json.dumps({"id": "one", "code": text(SUM), "call": "f(3, 4)"}) + "\n\n" +
                    json.dumps({"code": text(SUM), "input": "'a', 'b'"}) + "\n" + json.dumps({"id": "bad", "code": "def", "input": ""}))
    return path


def test_file_to_file(monkeypatch, capsys, tmp_path, programs):
    out = tmp_path / "new" / "data.jsonl"
    code, printed, _ = command(monkeypatch, capsys, "--programs", programs, "--out", out)
    assert code == 0 and "3 programs, 2 examples of output prediction" in printed and "1  syntax error  (bad)" in printed
    examples = [json.loads(line) for line in out.open()]
    assert [(example["id"], example["output"]) for example in examples] == [("one", "7"), ("programs_3", "'ab'")]
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert card["programs"] == 3 and card["kept"] == {"output": 2} and card["dropped"] == {"syntax error": 1}
    assert card["dropped_ids"] == {"syntax error": ["bad"]} and card["anchors"] == {"mean": 2, "median": 2, "range": [2, 2]}
    assert card["settings"]["seed"] == 1 and sorted(path.name for path in out.parent.iterdir()) == ["data.card.json", "data.jsonl"]


def test_a_killed_run_goes_on_and_ends_with_the_same_files(monkeypatch, capsys, tmp_path):
    path, folders = tmp_path / "sums.jsonl", [tmp_path / "whole", tmp_path / "killed"]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*sums(75), {"code": "def", "call": "f()"}, *sums(75)]))
    flags = ["--programs", path, "--task", "both", "--no-anchors", "0.3", "--drop-anchors", "0.2", "--out", "data.jsonl"]
    script = f"import sys; sys.path.insert(0, {str(Path(augment.__file__).parent)!r}); import augment; augment.CHUNK = 10; augment.main()"
    for folder in folders:
        folder.mkdir()
    monkeypatch.chdir(folders[0])
    assert command(monkeypatch, capsys, *flags)[0] == 0

    monkeypatch.chdir(folders[1])
    state = folders[1] / "data.jsonl.part.json"
    run = subprocess.Popen([sys.executable, "-c", script, *map(str, flags)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (state.exists() and json.loads(state.read_text())["report"]["programs"] >= 30) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    done = json.loads(state.read_text())["report"]["programs"]
    assert 30 <= done < 151 and not (folders[1] / "data.jsonl").exists()
    with (folders[1] / "data.jsonl.part").open("ab") as file:
        file.write(b'{"half a li')
    code, _, errors = command(monkeypatch, capsys, *flags, "--seed", 2)
    assert code == 2 and "begun by an interrupted run with other settings (seed); delete it to begin anew" in errors
    before = path.read_text()
    path.write_text(before.replace("s74", "t74"))  # of the same size
    code, _, errors = command(monkeypatch, capsys, *flags)
    assert code == 2 and "other settings (sha256)" in errors
    path.write_text(before)

    built = []
    monkeypatch.setattr(augment, "build", lambda chunk, build=augment.build, **recipe: built.extend(chunk) or build(chunk, **recipe))
    assert command(monkeypatch, capsys, *flags)[0] == 0 and len(built) == 151 - done
    for name in ("data.jsonl", "data.card.json"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert sorted(file.name for file in folders[1].iterdir()) == ["data.card.json", "data.jsonl"]


def test_half_a_surrogate_pair_in_a_name_ends_no_run(monkeypatch, capsys, tmp_path, programs):
    with programs.open("a") as file:
        file.write("\n" + json.dumps({"id": "\ud800", "code": "def", "input": ""}))
    code, printed, _ = command(monkeypatch, capsys, "--programs", programs, "--out", tmp_path / "data.jsonl")
    assert code == 0 and "2  syntax error  (bad, \\ud800)" in printed and (tmp_path / "data.jsonl").exists()


def test_two_runs_cannot_write_one_file(monkeypatch, capsys, tmp_path, programs):
    out = tmp_path / "data.jsonl"
    with augment.open_part(out, out.with_name("data.jsonl.part")):
        code, _, errors = command(monkeypatch, capsys, "--programs", programs, "--out", out)
    assert code == 2 and "another run is writing it" in errors


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys, tmp_path, programs):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(augment, "build", stop)
    code, _, errors = command(monkeypatch, capsys, "--programs", programs, "--out", tmp_path / "data.jsonl")
    assert code == 130 and errors.splitlines()[-1] == "interrupted; the same command goes on from here"


def test_stats(monkeypatch, capsys, tmp_path):
    """The states are 3, 3, '' and ''."""
    code = "def f(x):\n    a = 3\n    b = a\n    c = x\n    return c"
    path, out = tmp_path / "programs.jsonl", tmp_path / "data.jsonl"
    path.write_text(json.dumps({"code": code, "call": "f('')"}) + "\n")
    assert command(monkeypatch, capsys, "--programs", path, "--out", out)[0] == 0
    _, printed, _ = command(monkeypatch, capsys, "--stats", out)
    assert "anchors with the value of the anchor before: 50.0% (2 of 4)\n" in printed      # b after a, return_val after c
    assert "anchored assignments of a literal: 25.0% (1 of 4)\n" in printed                # a = 3, of a, b, c and return_val
    assert "return anchors that show the answer: 100.0% (1 of 1)\n" in printed             # the text is empty, the answer ''
    assert "anchors that are blank, have newlines or change under strip(): 50.0% (2 of 4)\n" in printed
    code, _, errors = command(monkeypatch, capsys, "--stats", path)
    assert code == 2 and "line 1: not an example" in errors


def test_limit_and_show(monkeypatch, capsys, tmp_path, programs):
    out = tmp_path / "data.jsonl"
    assert command(monkeypatch, capsys, "--programs", programs, "--out", out, "--limit", 1)[0] == 0
    code, printed, _ = command(monkeypatch, capsys, "--show", 5, out)
    assert code == 0 and printed.count("===") == 1
    assert "    print(f'c: {c}')                     # '7'\n" in printed and "<answer>7</answer>" in printed
    programs.write_text(json.dumps({"code": text(EARLY), "call": "f([1, 2])"}))
    assert command(monkeypatch, capsys, "--programs", programs, "--out", out, "--loop-anchors", 2)[0] == 0
    _, printed, _ = command(monkeypatch, capsys, "--show", 1, out)
    assert "  # '1', then '3'\n" in printed


BAD = {
    "no such file": (None, [], "missing.jsonl: no such file"),
    "no JSON": ('{"code": "def f(): return 1", "call": "f()"}\n{"code"', [], "line 2: not JSON"),
    "no code": ('{"input": "1"}', [], "line 1: a program needs the text field `code`"),
    "a list": ("[1]", [], "line 1: a program needs the text field `code`"),
    "no call": ('\n{"code": "x"}', [], "line 2: a program needs one of the text fields `call`, `input` and `tests`"),
    "empty": ("\n", [], "holds no programs"),
    "all dropped": ('{"code": "def", "call": "f()"}', [], "every program was dropped"),
    "unknown task": ("", ["--task", "both?"], "--task"),
    "no number": ("", ["--max-anchors", "0"], "--max-anchors"),
    "unknown flag": ("", ["--teacher-of-doom"], "--teacher-of-doom"),
    "no share": ("", ["--drop-anchors", "1.5"], "--drop-anchors"),
    "no count": ("", ["--loop-anchors", "12"], "--loop-anchors"),
    "counters for nothing": ("", ["--loop-anchors", "2", "--drop-anchors", "0.2"], "--loop-anchors and --drop-anchors do not go together"),
    "two teachers": ("", ["--loop-anchors", "2", "--teacher", "x"], "--loop-anchors needs the rules teacher"),
    "no field": ("", ["--fields", "colour=red"], "--fields"),
    "nobody to reason": ("", ["--reasoning", "teacher"], "--reasoning teacher needs --teacher"),
    "no benchmark": ('{"code": "def f(): return 1", "call": "f()"}', ["--decontaminate", "absent.jsonl"], "absent.jsonl: [Errno 2]"),
}


@pytest.mark.parametrize("title", BAD)
def test_bad_input_is_one_clear_line(monkeypatch, capsys, tmp_path, title):
    content, flags, message = BAD[title]
    path, out = tmp_path / "missing.jsonl", tmp_path / "data.jsonl"
    out.write_text("old")
    if content is not None:
        path.write_text(content)
    code, _, errors = command(monkeypatch, capsys, "--programs", path, "--out", out, *flags)
    assert code == 2 and message in errors.splitlines()[-1] and "Traceback" not in errors
    assert out.read_text() == "old" and not list(tmp_path.glob(".*"))


def test_out_must_not_be_what_is_read(monkeypatch, capsys, tmp_path, programs):
    before = programs.read_bytes()
    for words in (("--out", f"{programs.parent}/./{programs.name}"), ("--out", tmp_path / "bench.jsonl", "--decontaminate", tmp_path / "bench.jsonl")):
        code, _, errors = command(monkeypatch, capsys, "--programs", programs, *words)
        assert code == 2 and "would overwrite" in errors.splitlines()[-1]
    assert programs.read_bytes() == before
    code, _, errors = command(monkeypatch, capsys, "--programs", programs, "--out", tmp_path / "data.jsonl.gz")
    assert code == 2 and "plain JSONL" in errors.splitlines()[-1]


def test_out_must_be_a_file(monkeypatch, capsys, tmp_path, programs):
    code, _, errors = command(monkeypatch, capsys, "--programs", programs, "--out", tmp_path)
    assert code == 2 and f"--out {tmp_path}" in errors


def test_show_of_another_file(monkeypatch, capsys, programs):
    code, _, errors = command(monkeypatch, capsys, "--show", 1, programs)
    assert code == 2 and "line 1: not an example" in errors


OTHERS = {"no text": b"\xff\xfe", "no Python": {"instrumented": "def f("}, "a number": {"call": 3}, "anchors that are a text": {"anchors": "ab"},
          "no such function": {"call": "g(1)"}}


@pytest.mark.parametrize("title", OTHERS)
@pytest.mark.parametrize("flag", ["--show=1", "--stats"])
def test_a_look_at_what_is_no_example_is_one_line(monkeypatch, capsys, tmp_path, title, flag):
    path, other = tmp_path / "data.jsonl", OTHERS[title]
    [example], _ = make(SUM, "f(3, 4)")
    path.write_bytes(other if isinstance(other, bytes) else json.dumps(example | other).encode())
    code, _, errors = command(monkeypatch, capsys, flag, path)
    assert code == 2 and f"{path}: line 1: not an example of augment.py" in errors and errors.count("\n") == 1


def test_help_comes_before_heavy_imports():
    script = Path(augment.__file__)
    done = subprocess.run([sys.executable, "-X", "importtime", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--max-anchors" in done.stdout
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "transformers", "datasets"))


def test_a_run_that_was_late_is_tried_once_more_with_more_time(monkeypatch):
    # A busy machine: every run of the stream is late. Tried alone it is not, and no example is lost.
    real = sandbox.trace_many
    monkeypatch.setattr(sandbox, "trace_many", lambda jobs, **options: (
        trace if "workers" in options else trace._replace(status=sandbox.Status.TIMEOUT) for trace in real(jobs, **options)))
    report = augment.Report()
    rows = [{"id": "late", "code": "def f(a):\n    b = a + 1\n    return b", "call": "f(1)"}]
    assert [example["id"] for example in augment.build(rows, report=report)] == ["late"] and not report.dropped
    examples, report = make("def f():\n    a = {'ab', 'cd', 'ef', 'gh'}\n    return 1", "f()")  # and alone it is tried under the second hash seed
    assert not examples and report.dropped == {"another text under another hash seed": 1}


def test_an_endless_program_is_tried_only_once_more(monkeypatch):
    late, calls = sandbox.Trace(sandbox.Status.TIMEOUT), []
    monkeypatch.setattr(sandbox, "trace_many", lambda jobs, **_: (late for _ in jobs))
    monkeypatch.setattr(sandbox, "trace", lambda *some, **_: calls.append(some) or late)
    report = augment.Report()
    assert not list(augment.build([{"id": "endless", "code": "def f():\n    a = 1\n    while a:\n        pass", "call": "f()"}], report=report))
    assert len(calls) == 1 and report.dropped == {"the program does not run: timeout": 1}
