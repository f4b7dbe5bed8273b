"""CRUXEval, LiveCodeBench (execution), HumanEval and MBPP: their rows, their questions, and their official rules.

evaluate.py calls this; reval.py adds REval in the same form: a class whose docstring is the official rule.

A generation is spliced into a program, as code; that is the official way, and it runs in sandbox.py only. A program that lacks a
package of the benchmark's own ends as "missing", which leaves n: that is no wrong answer. LiveCodeBench's generation task is not
here: it needs the test cases of its own release.
"""

import ast
import os
import re
from collections import Counter
from pathlib import Path

import augment
import policy
import rewards
import sandbox


class Benchmark:
    """What evaluate.py needs to know of a benchmark."""

    file: str                       # in the folder --data
    source: str                     # its Hugging Face id, and the split
    split = "test"
    fields: tuple[str, ...]         # of a row
    conditions = "anchors", "plain"  # how it is asked
    skipped_leave_n = False         # do generations that are wrong unseen leave n?
    timeout = 3.0                   # seconds for a program

    def read(self, path: Path) -> list[dict]:
        return policy.read_jsonl(path, self.fields)

    def row(self, row: dict) -> dict:
        """A row of the data, completed: "id" and whatever the methods below want."""
        raise NotImplementedError

    def questions(self, rows: list[dict], anchors: bool, style: str) -> tuple[list[dict], Counter]:
        """What a model is asked, an example for each row ("shown" is its program), and why rows have no anchors, counted."""
        raise NotImplementedError

    def generation(self, row: dict, response: str) -> str | None:
        """What a response answers, in the form that the rule wants; None where it answers nothing."""
        raise NotImplementedError

    def unanswered(self, row: dict) -> str | None:
        """The generation that a response without an answer counts as; None: none, it is wrong."""

    def skipped(self, row: dict, text: str) -> bool:
        """Is the generation wrong unseen?"""
        return False

    def program(self, row: dict, text: str) -> str:
        """The program whose run without an exception, in 3 s, makes the generation right."""
        raise NotImplementedError

    def gold(self, row: dict) -> str:
        """The benchmark's own answer."""
        policy.fail("--generations gold: this benchmark comes without answers; tools/reval.py traces REval's")

    def extra(self, items: list[dict], mean) -> dict:
        """Results beyond the percentage of right answers. mean(ids, percents) -> value, interval and n."""
        return {}


class Crux(Benchmark):
    """CRUXEval: the program and `assert OUTPUT == GENERATION` run without an exception within 3 s.

    Wrong unseen, and in n: a generation without a call of f (input), or one that holds the very call asked about (output).
    """

    file, source, fields = "cruxeval.jsonl", "cruxeval-org/cruxeval", ("id", "code", "input", "output")

    def __init__(self, task: str):
        self.task = task

    def row(self, row: dict) -> dict:
        return row | {"call": f"f({row['input']})", "head": ""}

    def gold(self, row: dict) -> str:
        return row["output"] if self.task == "output" else row["call"]

    def skipped(self, row: dict, text: str) -> bool:
        return row["call"] in text if self.task == "output" else f"{rewards.entry(row['call'])}(" not in text

    def program(self, row: dict, text: str) -> str:
        return f"{row['code']}\nassert {row['output']} == {text}"

    def generation(self, row: dict, response: str) -> str | None:
        """Ours stands in <answer>, a chat model's after [ANSWER], there as the whole assertion."""
        answer = rewards.parse(response).answer
        if answer is not None:
            return answer if self.task == "output" else f"{rewards.entry(row['call'])}({answer})"
        return self.asserted(response.partition("[ANSWER]")[2]) if "[ANSWER]" in response else None

    def asserted(self, text: str) -> str:
        """What an assertion says: what stands after its == (output), or between assert and == (input)."""
        before, equals, after = text.partition("[/ANSWER]")[0].partition("==")
        if self.task == "output":
            return (after if equals else before).strip()
        return (before.split("assert")[1] if "assert" in before else before).strip()

    def questions(self, rows: list[dict], anchors: bool, style: str) -> tuple[list[dict], Counter]:
        """With anchors: the example of augment.py, where it makes one."""
        report, examples = augment.Report(), {}
        if anchors:
            programs = ({name: row[name] for name in ("id", "code", "call")} for row in rows)
            examples = {example["id"]: example for example in
                        augment.build(programs, task=self.task, prompt=style, max_anchors=1000, report=report)}
        found = []
        for row in rows:
            plain = {"id": row["id"], "call": row["call"], "output": row["output"], "task": self.task, "anchors": [], "instrumented": row["code"],
                     "prompt": augment.make_prompt(row["code"], row["call"], row["output"], self.task, style, steps=False)}
            question = examples.get(row["id"], plain)
            found.append(question | {"prompt": hidden(question["prompt"], row["head"]), "shown": hidden(question["instrumented"], row["head"])})
        return found, report.dropped


def hidden(text: str, head: str) -> str:
    """The text without the lines that stand before the program, which augment.py may have laid out anew."""
    anew = ast.unparse(ast.parse(head))
    return next((text.replace(form, "", 1) for form in (head, f"{anew}\n\n", f"{anew}\n") if head and form in text), text)


# What LiveCodeBench puts before each program. Modules come last: `bisect` is the module in the end, as in the original.
LCB_IMPORTS = """\
from bisect import bisect, bisect_left, bisect_right, insort
from collections import Counter, OrderedDict, defaultdict, deque
from copy import deepcopy
from functools import cache, lru_cache, partial, reduce
from heapq import heapify, heappop, heappush, merge
from itertools import (accumulate, chain, combinations, count, cycle, groupby, islice, permutations, product, repeat,
                       zip_longest)
from math import ceil, comb, floor, gcd, inf, isqrt, log, log2, log10, prod, sqrt
from operator import iand, itemgetter, sub
from os.path import commonprefix
from random import randrange, shuffle
from re import search as re_search
from string import ascii_lowercase
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, List, Optional, Set, Tuple, Union
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string, sys
import numpy as np
"""


class LiveCodeBench(Crux):
    """LiveCodeBench, execution: the same assertion after the benchmark's usual imports. `input` is the whole call.

    Output: a generation that holds the call is skipped; skipped ones leave n, but where all are, all are wrong. Input (the rows turned
    round, as CodeReasoner does): CRUXEval's rule.
    """

    file, source, fields = "lcb_execution_sample.jsonl", "livecodebench/execution-v2", ("id", "code", "input", "output")

    def __init__(self, task: str):
        super().__init__(task)
        self.skipped_leave_n = task == "output"

    def row(self, row: dict) -> dict:
        head = LCB_IMPORTS + "import pandas as pd\n" * ("pd." in row["code"])  # pandas is slow to import, and rarely used
        return row | {"id": str(row["id"]), "call": row["input"].strip(), "code": head + row["code"], "head": head}

    def asserted(self, text: str) -> str:
        """Output: up to the next == or [/ANSWER], or of an answer that is not closed its first line."""
        if self.task == "input":
            return super().asserted(text)
        text = (text.split("==")[1] if "==" in text else text).strip()
        return text.partition("[/ANSWER]" if "[/ANSWER]" in text else "\n")[0].strip()


class HumanEval(Benchmark):
    """HumanEval: prompt + completion + tests + the call of check run without an exception within 3 s."""

    file, source, fields = "HumanEval.jsonl.gz", "openai/openai_humaneval", ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    conditions = "plain",

    def row(self, row: dict) -> dict:
        return row | {"id": str(row["task_id"])}

    def gold(self, row: dict) -> str:
        return row["canonical_solution"]

    def program(self, row: dict, text: str) -> str:
        return f"{row['prompt']}{text}\n{row['test']}\ncheck({row['entry_point']})"

    def generation(self, row: dict, response: str) -> str | None:
        """The first code block, else all of it. A whole function redefines the prompt's, whose docstring is body enough."""
        block = re.search(r"```[^\n]*\n(.*?)(```|\Z)", response, re.DOTALL)
        text = block[1] if block else response
        return None if not text.strip() else text if text.startswith((" ", "\t")) else "\n" + text

    def ask(self, row: dict) -> str:
        return f"Complete this Python function. Answer with the whole function in one ```python block.\n\n{row['prompt'].rstrip()}"

    def questions(self, rows: list[dict], anchors: bool, style: str) -> tuple[list[dict], Counter]:
        prompts = [row["prompt"] if style == "bare" else self.ask(row) for row in rows]
        return [{"id": row["id"], "task": "code", "call": "", "output": "", "anchors": [], "instrumented": "", "shown": prompt, "prompt": prompt}
                for row, prompt in zip(rows, prompts)], Counter()


class MBPP(HumanEval):
    """MBPP: the code, then test_setup_code, then all assertions of test_list, within 3 s. The test split is task_id 11 to 510."""

    file, source, fields = "mbpp.jsonl", "google-research-datasets/mbpp", ("task_id", "text", "code", "test_list", "test_setup_code")

    def row(self, row: dict) -> dict:
        tests = "\n".join(row["test_list"])
        return super().row(row) | {"prompt": f'"""{row["text"]}\n{tests}\n"""\n'}

    def gold(self, row: dict) -> str:
        return row["code"]

    def program(self, row: dict, text: str) -> str:
        return "\n".join([text, row["test_setup_code"], *row["test_list"]])

    def ask(self, row: dict) -> str:
        tests = "\n".join(row["test_list"])
        return f"{row['text']} Answer with the code in one ```python block. It must pass these tests:\n\n{tests}"


def read_rows(benchmark, data: str | None, whole: bool = False) -> list[dict]:
    """A benchmark's rows from a file, a folder or a Hugging Face id; whole: MBPP's rows outside its test split too."""
    path = Path(data or os.environ.get("STEPCODE_DATA") or benchmark.source)
    path = path / benchmark.file if path.is_dir() else path
    is_id = re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and path.suffix not in (".jsonl", ".gz", ".json")
    if not path.is_file() and not is_id:
        policy.fail(f"{path}: no such file or folder (and no Hugging Face id)")
    try:
        rows = benchmark.read(path) if path.is_file() else download(str(path), benchmark)
        if isinstance(benchmark, MBPP) and not whole:
            rows = [row for row in rows if 11 <= int(row["task_id"]) <= 510]
        rows = [benchmark.row(row) for row in rows]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        policy.fail(f"{path}: a row is not of the form of {benchmark.source}: {error!r}")
    if (name := repeated(rows)) is not None:
        policy.fail(f"{path}: two rows have the id {name!r}")
    return rows or policy.fail(f"{path}: holds no rows of the benchmark")


def repeated(rows: list[dict]) -> str | None:
    """An id that several rows have."""
    return next((name for name, count in Counter(row["id"] for row in rows).items() if count > 1), None)


def download(source: str, benchmark) -> list[dict]:
    """All rows of a Hugging Face data set."""
    import datasets

    try:
        rows = list(datasets.load_dataset(source, split=benchmark.split))
    except (OSError, ValueError) as error:
        policy.fail(f"{source}: neither a file nor a data set that Hugging Face gives ({str(error).splitlines()[0]}). "
                    f"Put {benchmark.file} into a folder and name it by --data or STEPCODE_DATA")
    missing = [field for field in benchmark.fields if rows and field not in rows[0]]
    return policy.fail(f"{source}: no field {missing[0]!r}") if missing else rows


HEAD = """\
import resource
resource.setrlimit(resource.RLIMIT_CPU, 2 * (min({seconds}, resource.getrlimit(resource.RLIMIT_CPU)[1]),))
del resource
__name__ = 'builtins'
"""


def judge(benchmark, pairs: list[tuple[dict, str]]) -> list[str]:
    """How the official program of each (row, generation) ends: "ok" (right), "skipped" (not run), or a status of sandbox.py.

    "missing" is kept for packages that the benchmark's own part needs; a program runs once, however often it occurs. One that is
    late, which on a busy machine says little, has a second chance: it is right if it ends within the limit of its own CPU time.
    Under the official scorers, which call exec, no program is __main__.
    """
    from tqdm import tqdm

    head = HEAD.format(seconds=int(benchmark.timeout))
    programs = [None if benchmark.skipped(row, text) else benchmark.program(row, text) for row, text in pairs]
    programs = [program if program is None or program.lstrip().startswith("from __future__") else head + program for program in programs]
    unique = list(dict.fromkeys(program for program in programs if program is not None))
    traces = sandbox.trace_many(((program, "") for program in unique), timeout=benchmark.timeout)
    found = dict(zip(unique, tqdm(traces, total=len(unique), desc="score", unit=" programs", mininterval=1)))
    late = [program for program, trace in found.items() if trace.status == "timeout" and program.startswith(head)]  # none without the limit
    again = sandbox.trace_many(((program, "") for program in late), timeout=4 * benchmark.timeout)
    found |= {program: trace for program, trace in zip(late, again) if trace.status == "ok"}
    statuses = []
    for program, (row, _) in zip(programs, pairs):
        trace = found.get(program)
        status = "skipped" if trace is None else str(trace.status)
        if status == "missing" and not all(re.search(rf"\b(import|from)\s[^\n]*\b{name}\b", benchmark.program(row, ""))
                                           for name in re.findall(r"'([\w.]+)'", trace.error)[:1]):
            status = "error"  # the generation asked for it
        statuses.append(status)
    return statuses


def verdicts(benchmark, statuses: list[str]) -> list[bool | None]:
    """One problem's statuses as official verdicts. None leaves n: a missing package always, a skipped response where the benchmark
    says so and another response of the problem stays."""
    leave = {"missing", "skipped"} if benchmark.skipped_leave_n else {"missing"}
    if not set(statuses) - leave:
        leave = {"missing"}
    return [None if status in leave else status == "ok" for status in statuses]
