"""A look at examples: `python augment.py --show N FILE` and `python augment.py --stats FILE`."""

import ast
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import rewards
import sandbox
from augment import BadInput, Source, anchor_name, bodies, entry_function, literal_node, spread

NEEDED = ("id", "task", "instrumented", "call", "anchors", "output", "prompt", "response")


def read_examples(path: Path):
    """Yield the examples of a JSONL file that augment.py wrote."""
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                example = json.loads(line)
                found = {key: example[key] for key in NEEDED}
                if not all(isinstance(found[key], str) for key in NEEDED if key != "anchors"):
                    raise ValueError("a field that is no text")
                function = entry_function(ast.parse(found["instrumented"]), rewards.entry(found["call"]))
                if function is None or not all(isinstance(name, str) and isinstance(value, str) for name, value in found["anchors"]):
                    raise ValueError("no function that is called, or anchors that are no pairs")
                yield found
    except OSError as problem:
        raise BadInput(f"{path}: {problem.strerror}") from None
    except (*rewards.PARSER_ERRORS, KeyError) as problem:
        raise BadInput(f"{path}: line {number or 1}: not an example of augment.py: {problem!r}") from None


def show(path: Path, count: int) -> None:
    for example in itertools.islice(read_examples(path), count):
        print(as_text(example))


def as_text(example: dict) -> str:
    """One example as a person wants to see it; runs it again to learn which line printed what."""
    trace = sandbox.trace(example["instrumented"], example["call"])
    states = {line: text for line, _, text in trace.anchors}
    lines = Source(example["instrumented"]).lines
    width = min(max(map(len, lines)), 70)
    marks = [f"  # {states[line]!r}"[:100] if line in states else "" for line in range(1, len(lines) + 1)]
    program = [f"{line.rstrip():{width}}{mark}".rstrip() for line, mark in zip(lines, marks)]
    response = re.sub(r"(</(?:print|input)>)", r"\1\n", example["response"])
    title = f"=== {example['id']} ({example['task']} prediction): {example['call']} == {example['output']}"
    return "\n".join([title, "", *program, "", "--- prompt", example["prompt"], "", "--- response", response, ""])


SHARES = {  # what is counted: (of what, in words). Such states are rewarded without a step of reasoning, or twice
    "repeated": ("anchors", "anchors with the value of the anchor before"),
    "literals": ("assignments", "anchored assignments of a literal"),
    "answers": ("returns", "return anchors that show the answer"),
    "odd": ("anchors", "anchors that are blank, have newlines or change under strip()"),
}


def stats(path: Path) -> None:
    """Print sizes, and how many states are free reward."""
    tasks, anchors, lengths, count = Counter(), Counter(), Counter(), Counter()
    for example in read_examples(path):
        tasks[example["task"]] += 1
        lengths[len(example["prompt"]) + len(example["response"])] += 1
        if example["anchors"]:
            anchors[len(example["anchors"])] += 1
            count.update(quirks(example))
    print(f"{path}: " + ", ".join(f"{number} examples of {task} prediction" for task, number in tasks.items()))
    print(f"anchors per example: {spread(anchors)} (the paper's training set: mean 4.1, median 4, range 1-10)")
    print(f"characters of prompt and response: {spread(lengths)}")
    for part, (whole, title) in SHARES.items():
        print(f"{title}: {100 * count[part] / max(count[whole], 1):.1f}% ({count[part]} of {count[whole]})")


def quirks(example: dict) -> Counter:
    """The counts that SHARES names, of one example with anchors."""
    texts, output, count = [text for _, text in example["anchors"]], example["output"], Counter()
    count["anchors"] = len(texts)
    count["repeated"] = sum(before == after for before, after in itertools.pairwise(texts))
    count["odd"] = sum(not text or text != text.strip() or "\n" in text for text in texts)
    if example["anchors"][-1][0] == "return_val":
        count["returns"] = 1
        count["answers"] = int(texts[-1] == output or rewards.same_literal(output, repr(texts[-1])))
    function = entry_function(ast.parse(example["instrumented"]), rewards.entry(example["call"]))
    for statement, after in (pair for body in bodies(function) for pair in itertools.pairwise(body)):
        if isinstance(statement, ast.Assign) and anchor_name(after):
            count["assignments"] += 1
            count["literals"] += literal_node(ast.unparse(statement.value)) is not None
    return count
