"""REval: is a line executed, what is a variable after it, which line comes next, what is the output; and are the four consistent?

    python tools/reval.py --data FOLDER --save-truth truth.jsonl            the true answers of all 3,152 queries
    python evaluate.py --model DIR --benchmark reval --data FOLDER --out OUT
    python evaluate.py score --benchmark reval --data FOLDER --generations FILE --out FILE

FOLDER holds DREval_data.jsonl and DREval_tasks.jsonl of github.com/r-eval/REval. A query is a line of a program under one input; it is
asked three things, and each input one. Their ids are those of a generations file: "DREval/0/input 2/line 17/state", "DREval/0/input 2/output".

The truth is traced by sys.settrace inside the sandbox, when it is asked for. Answers are judged there too: the benchmark evaluates
what a model wrote as a value. As in the benchmark's own tracer:

    states      events of one line in a row, of whatever frame, are one state, with the locals of the last "line" event
    after       what holds after a visit are the locals of the next state, of whatever frame; the last state is its own next
    coverage    there is a state of the line
    path        the lines of the next states, over all visits; -1 after the last state, and where the line is not executed
    state       a, a.b, a[i] and tuples of these: each combination of the values after each visit of the line; Nil if there is none
    output      the completed assertions are executed; wrong unseen with fewer assertions than asked, or with `assert True` and its like

Reading answers, as the benchmark does: coverage from the first three characters, YES or NO, anything else is NO; path from the first
line of the answer, matched to all program lines with the same stripped text; state as "value; type", split at the last ";".
Consistency of a query, in the order coverage, state, path, output: 1 if all hold, .5 if only the first three, .25 two, .125 one, else 0.

With anchors (the paper's form) a function is shown instrumented. Line L of the original is asked about as its line in P'; the true
answers stay those of P, so a print that was inserted is never a next line. Classes, and functions that augment.py cannot instrument, are
asked in the original form, counted. The wording of the questions is ours.
"""

import argparse
import ast
import json
import keyword
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import augment  # noqa: E402
import policy  # noqa: E402
import rewards  # noqa: E402
import sandbox  # noqa: E402
from tools.benchmarks import Benchmark, read_rows  # noqa: E402

TASKS = "coverage", "state", "path", "output"
CREDIT = {(1, 1, 1, 1): 1.0, (1, 1, 1, 0): 0.5, (1, 1, 0, 0): 0.25, (1, 0, 0, 0): 0.125}

# What runs in the sandbox. QUERY is {code, entry, input, test, input_idx}; test is None for a function.
HARNESS = '''
import ast, copy, collections.abc, itertools, os, sys

def load(query):
    """(the namespace of the program, the function of no arguments to trace, or for a class its test case and the test's name)."""
    os.environ.setdefault("HOME", "/")     # some packages want one
    names = {"__name__": "reval"}
    if "np.mat(" in query["code"]:
        import numpy
        numpy.mat, numpy.matrix.__float__ = numpy.asmatrix, lambda one: float(one.item())    # as when the benchmark was made
    exec(compile(query["code"], "<traced>", "exec"), names)
    if query["test"] is None:
        arguments = eval(query["input"], names)
        return names, lambda: names[query["entry"]](*arguments)
    import unittest
    exec(compile(query["test"], "<test>", "exec"), names)
    cases = [case for name, case in names.items() if name.startswith(query["entry"] + "Test") and isinstance(case, type)
             and issubclass(case, unittest.TestCase)]
    case = cases[query["input_idx"]]()
    case.setUp()
    return names, case

def trace(query):
    """The states of the run: [line, locals]."""
    _, run = load(query)
    if query["test"] is not None:
        run = getattr(run, next(name for name in vars(type(run)) if name.startswith("test")))
    states = []

    def kept(value):
        return type(value).__name__ not in ("module", "function", "builtin_function_or_method") and not isinstance(value, collections.abc.Iterator)

    def step(frame, event, argument):
        if not states or states[-1][0] != frame.f_lineno:
            states.append([frame.f_lineno, {}])
        if event == "line":
            states[-1][1] = {name: copy.deepcopy(value) for name, value in frame.f_locals.items() if kept(value)}
        return step

    sys.settrace(lambda frame, event, argument: step if frame.f_code.co_filename == "<traced>" else None)
    try:
        run()
    finally:
        sys.settrace(None)
    return states

def visits(states, line):
    return [i for i, state in enumerate(states) if state[0] == line]

def next_lines(states, line):
    return sorted({states[i + 1][0] if i + 1 < len(states) else -1 for i in visits(states, line)} or {-1})

def values(states, line, node):
    """The values that an expression may have after a visit of the line; [] for Nil."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.Name):
        after = [states[min(i + 1, len(states) - 1)][1] for i in visits(states, line)]
        return [names[node.id] for names in after if node.id in names]
    if isinstance(node, ast.Attribute):
        return [getattr(value, node.attr) for value in values(states, line, node.value) if hasattr(value, node.attr)]
    if isinstance(node, ast.Tuple):
        return list(itertools.product(*(values(states, line, part) for part in node.elts)))
    if isinstance(node, ast.Subscript):
        found = []
        for value, index in itertools.product(values(states, line, node.value), values(states, line, node.slice)):
            try:
                found.append(value[index])
            except (TypeError, KeyError, IndexError):
                pass
        return found
    raise TypeError(node)   # a[i - 1] and the like: Nil

def after(states, line, name):
    """values() of a text; [] for Nil."""
    try:
        return values(states, line, ast.parse(name).body[0].value) if visits(states, line) else []
    except Exception:
        return []

def kind(value):
    return type(value).__name__ if type(value).__module__ == "builtins" else type(value).__module__ + "." + type(value).__name__

def truth(query, lines):
    """[covered, values after it as (repr, type), next lines] of each (line, variable)."""
    states = trace(query)
    return [[bool(visits(states, line)), list(dict.fromkeys((repr(value), kind(value)) for value in after(states, line, name))),
             next_lines(states, line)] for line, name in lines]

def read_state(text):
    """What a model wrote: (value, type), or "nil", or None for what cannot be read."""
    import datetime, pydoc, re
    for fancy, plain in zip("\\u2018\\u2019\\u201c\\u201d", "\\'\\'\\"\\""):
        text = text.replace(fancy, plain)
    text = text.strip()
    value, semicolon, name = text.rpartition(";")
    value, name = value.strip(), name.strip().lower()
    if text.capitalize() == "Nil" or text == "[Nil]" or value.capitalize() == "Nil":
        return "nil"
    if not semicolon:
        return None
    for form in (r"<class '(.*)'>", r"(.*)\\[.*\\]"):
        if found := re.match(form, name):
            name = found[1]
    name = {"string": "str", "integer": "int"}.get(name, name)
    if "," in name or "tuple" in name:
        name = "tuple"
    names = {"datetime": datetime.datetime}
    if "np." in value or "numpy" in value + name or name.startswith("np."):
        import numpy
        names.update(np=numpy, numpy=numpy)
    if name == "str":
        try:
            return eval(value, names), str
        except Exception:
            return value, str
    try:
        if name in ("datetime.datetime", "datetime"):
            from dateutil.parser import parse
            return parse(value), pydoc.locate(name)
        if name in ("numpy.ndarray", "np.ndarray"):
            return numpy.array(eval(value, names)), pydoc.locate(name)
        if value == "None":
            return None, type(None)
        located = pydoc.locate(name)
        if not isinstance(located, type):
            return None
        if located.__module__ == "builtins":
            return eval(value, names), located
        try:
            return located(eval(value, names)), located
        except Exception:
            return located(value), located
    except Exception:
        return None

def same_state(answer, true):
    """Is an answer of read_state among the true values?"""
    if answer is None or answer == "nil" or not true:
        return isinstance(answer, str) and not true
    value, located = answer
    if type(value) != located or all(type(other) != located for other in true):
        return False
    for other in true:
        try:
            if abs(value - other) < 1e-6 if located is float else (value is other or bool(equal(value, other))):
                return True
        except Exception:
            pass
    return False

def equal(value, other):
    if type(value).__module__ == type(other).__module__ == "numpy":
        import numpy
        return numpy.allclose(value, other)
    return value == other

def right_output(query, text):
    """Run the completed assertions; raises where they do not hold."""
    names, run = load(query)
    if query["test"] is None:
        return exec(text, names)
    body, quoted = "def completed(self):", False
    for line in text.split("\\n"):
        body += "\\n" + ("" if quoted else "\\t") + line
        quoted ^= "\\'\\'\\'" in line or '"""' in line
    exec(body.replace("assert", "self.assert"), names)
    names["completed"](run)
'''


# ---------------------------------------------------------------------------------------------------------------------
# Reading answers that need no evaluation


def says_yes(text: str) -> bool:
    """YES in the first three characters; anything else, both words included, is NO."""
    start = text.upper().strip()[:3]
    return "YES" in start


def path_lines(text: str, lines: list[str]) -> list[int]:
    """The lines (from 1) that an answer names; [-1] for "-1", [] where it is none of the program's."""
    text = text.strip().split("\n")[0].strip()
    return [-1] if text == "-1" else [number for number, line in enumerate(lines, 1) if text and line.strip() == text]


def completed(text: str, asked: str) -> str | None:
    """The assertions of an answer, its first lines taken from the question if it has fewer; None if it is wrong unseen."""
    given, lines = asked.strip().split("\n"), text.strip().split("\n")
    text = "\n".join(given[:len(given) - len(lines)] + lines) if len(lines) < len(given) else text
    cheats = "assertTrue(True)", "assertFalse(False)", "assert True", "assert False"
    return None if any(cheat in text for cheat in cheats) or text.count("assert") < asked.count("assert") else text


def line_map(code: str, instrumented: str) -> dict[int, int] | None:
    """Line of P (from 1) -> its line in P'; None if P' is not P with lines inserted, returns rewritten and suites moved down."""
    found, lines, place = {}, instrumented.split("\n"), 0
    for number, line in enumerate(code.split("\n"), 1):
        text = line.strip()
        value = text.removeprefix("return ")
        forms = {text} if value == text or value.isidentifier() and not keyword.iskeyword(value) else {text, f"return_val = {value}"}
        while place < len(lines) and lines[place].strip() not in forms and not (
                lines[place].strip().endswith(":") and text.startswith(lines[place].strip())):
            place += 1
        if place == len(lines):
            return None
        place += 1
        found[number] = place
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The benchmark, in the form of tools/benchmarks.py


ASK = {
    "coverage": "Is line {line}, `{text}`, executed? Answer YES or NO.",
    "state": "What is the value of `{var}` right after line {line}, `{text}`, is executed? Answer with the value and its type, such as "
             "3; int or 'ab'; str. If the line is executed several times, any of the values is right. If it is not executed, answer Nil.",
    "path": "Which line is executed right after line {line}, `{text}`? Answer with the text of that line; if there are several, with any of "
            "them. Answer -1 if the run ends there, or if the line is not executed.{passed}",
    "output": "Complete the test: answer with all of its text, each ?? replaced by the right value.",
}
PASSED = " Pass over lines that only serve to show a value: print, and beside it `return_val = NAME` or `return return_val`."


class REval(Benchmark):
    """REval's four tasks, each judged on its own; see the top of this file."""

    file, source, fields = "DREval_data.jsonl", "the data folder of github.com/r-eval/REval", ("task_id", "entry_point", "code", "inputs")
    timeout = 60.0  # some programs import packages that take seconds

    def read(self, path: Path) -> list[dict]:
        """One row for each thing asked."""
        programs = policy.read_jsonl(path, self.fields + ("test",))
        tasks = policy.read_jsonl(path.with_name("DREval_tasks.jsonl"), ("task_id", "idx", "tasks"))
        rows = []
        for entry in tasks:
            program = programs[entry["idx"]]
            for asked in entry["tasks"]:
                one = {"code": program["code"], "entry": program["entry_point"], "test": program["test"], "input_idx": asked["input_idx"],
                       "input": program["inputs"][asked["input_idx"]], "output_pred": asked["output_pred"],
                       "run": f"{entry['task_id']}/input {asked['input_idx']}"}
                rows += [one | {"id": f"{one['run']}/line {query['lineno']}/{task}", "ask": task, **query}
                         for query in asked["task"] for task in TASKS[:3]]
                rows.append(one | {"id": f"{one['run']}/output", "ask": "output", "lineno": 0, "var": ""})
        return rows

    def row(self, row: dict) -> dict:
        return row

    def questions(self, rows: list[dict], anchors: bool, style: str) -> tuple[list[dict], Counter]:
        report, examples = augment.Report(), {}
        functions = {row["run"]: row for row in rows if anchors and row["test"] is None}
        programs = ({"id": run, "code": row["code"], "call": call_of(row)} for run, row in functions.items())
        for example in augment.build(programs, task="output", prompt=style, max_anchors=1000, report=report):
            places = line_map(example["code"], example["instrumented"])
            if places:
                examples[example["id"]] = example | {"places": places}
            else:
                report.drop("lines of P that are not found in P'", example["id"])
        report.dropped["a class"] = len({row["run"] for row in rows if anchors and row["test"] is not None})
        return [self.question(row, examples.get(row["run"])) for row in rows], +report.dropped

    def question(self, row: dict, example: dict | None) -> dict:
        """What is asked about a row: with the anchors of the example, or without."""
        row["places"], row["shown"] = (example["places"], example["instrumented"]) if example else (None, row["code"])
        base = {"id": row["id"], "call": run_of(row), "output": "", "task": "output", "instrumented": row["shown"], "shown": row["shown"],
                "anchors": example["anchors"] if example else []}
        if example and row["ask"] == "output":
            return base | {"prompt": example["prompt"]}
        line = row["places"][row["lineno"]] if example and row["lineno"] else row["lineno"]
        text = row["shown"].split("\n")[line - 1].strip()
        ask = ASK[row["ask"]].format(line=line, text=text, var=row["var"], passed=PASSED if example else "")
        run = row["output_pred"] if row["ask"] == "output" else run_of(row)
        steps = augment.STEPS + "After the last step write the answer:\n" if example else "Answer in this form:\n"
        shown = f"{row['shown'].rstrip()}\n\nIt is run as follows.\n\n{run.strip()}\n\n{ask}"
        return base | {"call": "", "shown": shown,
                       "prompt": f"Execute this Python program in your head. {steps}<reasoning>why</reasoning><answer>ANSWER</answer>\n\n{shown}"}

    def generation(self, row: dict, response: str) -> str | None:
        """The answer; for an output with one ?? also the value alone."""
        answer = rewards.parse(response).answer
        if answer is None and "[ANSWER]" in response:
            answer = response.partition("[ANSWER]")[2].partition("[/ANSWER")[0]
        answer = answer and answer.strip()
        if answer is not None and row["ask"] == "output" and "assert" not in answer and row["output_pred"].count("??") == 1:
            return row["output_pred"].replace("??", answer)
        return answer

    def unanswered(self, row: dict) -> str | None:
        return "" if row["ask"] == "coverage" else None  # what is no YES is NO

    def skipped(self, row: dict, text: str) -> bool:
        return row["ask"] == "output" and completed(text, row["output_pred"]) is None

    def program(self, row: dict, text: str) -> str:
        """A program that ends without an exception if the answer is right."""
        query = {name: row[name] for name in ("code", "entry", "input", "test", "input_idx")}
        line = row["lineno"]
        if row["ask"] == "coverage":
            test = f"assert bool(visits(trace(QUERY), {line})) == {says_yes(text)}"
        elif row["ask"] == "state":
            test = f"assert same_state(read_state({text!r}), after(trace(QUERY), {line}, {row['var']!r}))"
        elif row["ask"] == "path":
            places = {place: number for number, place in (row.get("places") or {}).items()}
            named = path_lines(text, row.get("shown", row["code"]).split("\n"))
            named = [places.get(number, number if number == -1 else None) for number in named] if places else named
            test = f"assert set(next_lines(trace(QUERY), {line})) & set({named})"
        else:
            test = f"right_output(QUERY, {completed(text, row['output_pred'])!r})"
        return f"{HARNESS}\nQUERY = {query!r}\n{test}"

    def extra(self, items: list[dict], mean) -> dict:
        """Accuracy of each task and incremental consistency."""
        finals, tasks = {}, {}
        for item in items:
            finals.setdefault(item["id"], []).append(item["final"])
        for task in TASKS:
            some = [(name, 100 * final) for name, found in finals.items() if name.endswith(task) for final in found if final is not None]
            tasks[task] = mean([name for name, _ in some], [percent for _, percent in some])
        scores = []
        for query in sorted({name.rsplit("/", 1)[0] for name in finals if not name.endswith("/output")}):
            run = query.rsplit("/", 1)[0]
            names = [f"{query}/{task}" for task in TASKS[:3]] + [f"{run}/output"]
            for four in zip(*(finals.get(name, []) for name in names)):  # the first samples, the second ones, ...
                if None not in four:
                    scores.append((run, 100 * CREDIT.get(tuple(map(int, four)), 0.0)))
        tasks["incremental consistency"] = mean([run for run, _ in scores], [percent for _, percent in scores])
        return {"tasks": tasks}


def call_of(row: dict) -> str:
    """The call of a function under an input such as ([1, 2], 3,)."""
    return f"{row['entry']}{row['input'][:-2]})"


def run_of(row: dict) -> str:
    """What is executed: the call, or the test of a class after its setUp."""
    if row["test"] is None:
        return call_of(row)
    setup = ast_setup(row)
    return (f"# executed before\n{setup}\n# the test\n" if setup else "") + row["input"]


def ast_setup(row: dict) -> str:
    """The body of setUp in the test case of the row's input, "" where there is none."""
    cases = [node for node in ast.parse(row["test"]).body if isinstance(node, ast.ClassDef) and node.name.startswith(row["entry"] + "Test")]
    bodies = [node.body for node in cases[row["input_idx"]].body if isinstance(node, ast.FunctionDef) and node.name == "setUp"]
    return "\n".join(ast.unparse(statement) for statement in bodies[0]) if bodies else ""


# ---------------------------------------------------------------------------------------------------------------------
# The truth


def truths(rows: list[dict]):
    """Yield (rows of one run, their traced truths, or the sandbox's Trace where the program cannot be run)."""
    runs = {}
    for row in rows:
        if row["ask"] == "coverage":
            runs.setdefault(row["run"], []).append(row)
    jobs = ((f"{HARNESS}\nQUERY = {({name: some[0][name] for name in ('code', 'entry', 'input', 'test', 'input_idx')})!r}",
             f"truth(QUERY, {[(row['lineno'], row['var']) for row in some]!r})") for some in runs.values())
    for some, trace in zip(runs.values(), sandbox.trace_many(jobs, timeout=REval.timeout)):
        yield some, ast.literal_eval(trace.value) if trace.status == "ok" else trace


def save_truth(rows: list[dict], path: Path) -> Counter:
    """Write the truth of every query; the number of queries by status."""
    counts = Counter()
    with policy.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with policy.writing(path), path.open("w") as file:
        for some, found in truths(rows):
            for row, truth in zip(some, found if isinstance(found, list) else [None] * len(some)):
                status = "ok" if truth else f"{found.status}: {found.error}"
                counts[status] += 1
                known = dict(zip(("coverage", "state", "path"), truth)) if truth else {}
                file.write(json.dumps({"task_id": row["run"].rpartition("/")[0], "input_idx": row["input_idx"], "lineno": row["lineno"],
                                       "var": row["var"], "status": status, **known}) + "\n")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description="The true answers of REval's queries, traced in the sandbox.")
    parser.add_argument("--data", type=Path, required=True, help="folder with DREval_data.jsonl and DREval_tasks.jsonl")
    parser.add_argument("--save-truth", type=Path, required=True, metavar="FILE",
                        help="JSONL: coverage, state (values after any visit, [] for Nil) and path (next lines, -1 for the end) of each query")
    args = parser.parse_args()
    counts = save_truth(read_rows(REval(), str(args.data)), args.save_truth)
    print(f"{args.save_truth}: {sum(counts.values())} queries")
    print("\n".join(f"  {count:6} {status}" for status, count in counts.most_common()))


if __name__ == "__main__":
    main()
