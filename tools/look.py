"""A look at examples: `python augment.py --show N FILE` and `python augment.py --stats FILE`; and what anchors in loops cost.

    python tools/look.py --programs runs/toy/test.jsonl cruxeval.jsonl --tokenizer runs/toy/model --out runs/loop_anchors

The last makes the examples of each file with --loop-anchors 0, 1, 2 and 3, of output prediction, and writes loop_anchors.md and .png:
programs kept and dropped, and, over the programs that every K keeps, anchors, response and prompt in tokens of that tokenizer, and the
share of anchors that repeat the value before; once for all programs and once for those that have anchors in a loop.
"""

import argparse
import ast
import itertools
import json
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import augment  # noqa: E402
import rewards  # noqa: E402
import sandbox  # noqa: E402
from augment import BadInput, anchor_name, bodies, entry_function, literal_node, spread  # noqa: E402

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
    lines = example["instrumented"].split("\n")
    width = min(max(map(len, lines)) + 1, 70)
    states = [[repr(text) for line, _, text in trace.anchors if line == number] for number in range(1, len(lines) + 1)]
    marks = [f"  # {', then '.join(texts)}"[:100] if texts else "" for texts in states]
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
    if not tasks:
        raise BadInput(f"{path}: is empty")
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


# ---------------------------------------- What anchors in loops cost: python tools/look.py

ITERATIONS = 0, 1, 2, 3
COST = {"anchors": "anchors", "response": "response tokens", "prompt": "prompt tokens", "repeated": "repeat the value before (%)"}


def loop_costs(path: str, tokens) -> list[dict]:
    """A row for each K of ITERATIONS, for all programs of a file and for those with anchors in a loop. tokens: text -> their number."""
    rows, _ = augment.read_programs(path, "train", augment.FIELDS)
    programs, built, counts = list(rows), [], []
    for k in ITERATIONS:
        report = augment.Report()
        built.append({example["id"]: example for example in augment.build(programs, report=report, prompt="bare", loop_anchors=k)})
        dropped = report.dropped["more than 10 anchors"]
        counts.append({"K": k, "kept": len(built[-1]), "over 10 anchors": dropped, "other drops": len(programs) - dropped - len(built[-1])})
    common = set.intersection(*map(set, built))
    if not common:
        raise BadInput(f"{path}: no program is kept at every K")
    with_loops = {name for name in common if built[0][name]["instrumented"] != built[-1][name]["instrumented"]}
    return [{"programs": f"{Path(path).name}, {which}"} | count | {"compared": len(names)} | cost([examples[name] for name in sorted(names)], tokens)
            for which, names in (("all", common), ("with anchors in a loop", with_loops)) if names for count, examples in zip(counts, built)]


def cost(examples: list[dict], tokens) -> dict:
    """The means that COST names, of examples."""
    counts = sum(map(quirks, examples), Counter())
    return {"anchors": counts["anchors"] / len(examples), "repeated": 100 * counts["repeated"] / counts["anchors"],
            **{part: statistics.mean(tokens(example[part]) for example in examples) for part in ("response", "prompt")}}


def draw_costs(rows: list[dict], path: Path) -> None:
    """Anchors against response tokens of the programs with anchors in a loop, a point for each K; and the programs over the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = itertools.cycle(["#1f6fd1", "#d9730d", "#2e8b57", "#8e44ad"])
    for name, group in itertools.groupby(rows, lambda row: row["programs"]):
        group = list(group)
        if name.endswith("all"):
            colour, total = next(colours), sum(group[0][part] for part in ("kept", "over 10 anchors", "other drops"))
            right.plot([row["K"] for row in group], [100 * row["over 10 anchors"] / total for row in group], marker="o", color=colour,
                       label=f"{name.removesuffix(', all')} ({total} programs)")
        else:
            left.plot([row["response"] for row in group], [row["anchors"] for row in group], marker="o", color=colour,
                      label=f"{name.partition(',')[0]} ({group[0]['compared']} with loops)")
            for row in group:
                left.annotate(f"K = {row['K']}", (row["response"], row["anchors"]), (5, -11), textcoords="offset points", fontsize=8, color="0.35")
    left.margins(0.15)
    left.set_title("Resolution against cost", loc="left", fontweight="bold")
    left.set(xlabel="tokens of a response, mean", ylabel="anchors of a response, mean")
    right.set_title("Dropped for more than 10 anchors", loc="left", fontweight="bold")
    right.set(xlabel="K, iterations of a loop with anchors", ylabel="percent of programs", xticks=ITERATIONS)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="best")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description="What anchors in loops cost: anchors, tokens and dropped programs for K = 0, 1, 2, 3.")
    parser.add_argument("--programs", nargs="+", required=True, metavar="FILE", help="JSONL files as for augment.py")
    parser.add_argument("--tokenizer", default="runs/toy/model", help="checkpoint folder or Hugging Face id whose tokens are counted")
    parser.add_argument("--out", type=Path, default=Path("runs/loop_anchors"), help="folder to write to")
    args = parser.parse_args()
    try:
        for path in args.programs:
            if not Path(path).is_file():
                raise BadInput(f"{path}: no such file")
        from transformers import AutoTokenizer

        import policy

        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        rows = [row for path in args.programs for row in loop_costs(path, lambda text: len(tokenizer(text).input_ids))]
        args.out.mkdir(parents=True, exist_ok=True)
    except (BadInput, OSError, ValueError) as problem:  # of a tokenizer in several lines
        print(f"error: {str(problem).strip().partition(chr(10))[0]}", file=sys.stderr)
        sys.exit(2)
    names = [name for name in rows[0] if name not in COST]
    lines = [[*names, *COST.values()], ["---"] * (len(names) + len(COST))]
    lines += [[*(str(row[name]) for name in names), *(f"{row[name]:.1f}" for name in COST)] for row in rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    table += f"\n\nTokens are those of {args.tokenizer}. Made by `python tools/look.py --programs {' '.join(args.programs)}`, commit {policy.git_commit()}.\n"
    (args.out / "loop_anchors.md").write_text(table)
    draw_costs(rows, args.out / "loop_anchors.png")
    print(table + f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
