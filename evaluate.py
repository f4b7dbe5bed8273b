"""Evaluation (section 4): does the model get the answer, and does it get there faithfully?

    python evaluate.py --model runs/rl/model --data runs/toy/test_examples.jsonl --out runs/eval/rl.json
    python evaluate.py --model runs/rl/model --benchmark cruxeval-output,reval,humaneval --out runs/eval/rl
    python evaluate.py compare runs/eval/sft.json runs/eval/rl.json
    python evaluate.py score --benchmark cruxeval-output --data cruxeval.jsonl --generations gens.json --out scores.json

The first form samples a response to each example of augment.py. The second does the same on benchmarks by name, each with anchors
(the paper's headline) and without, in files OUT/NAME.json and OUT/NAME-plain.json (HumanEval and MBPP, which ask for code, once); the rows come from --data or $STEPCODE_DATA (a
file or a folder), otherwise from Hugging Face. Every row of a benchmark counts: where a program cannot be given anchors its question
is asked without, and the result says how often and why. Both report four percentages (the paper's Table 6, extended):

    final accuracy              the answer is right (a benchmark's by its official rule, an example's by rewards.py)
    step accuracy               anchors whose predicted state equals the interpreter's, missing ones counted as wrong
    gap                         final minus step
    right answer, wrong trace   of the right answers that have anchors, those with at least one wrong anchor

each with n and a 95% interval (bootstrap over examples, all samples of one together), each also without return anchors and without
anchors that repeat the value before them; by position and by number of anchors; and the reward budget and the response tokens.
Sampled responses are kept as they come in OUT.partial, so a run that is killed goes on where it was.

`compare` gives the paired bootstrap of the difference of two result files on the same examples. `score` applies a benchmark's
official rule to generations made by any model, {"sample_0": ["...", ...], ...} (`--generations gold`: the benchmark's own answers).

Decisions where the paper is silent:
1. Benchmarks splice a generation into a program, as code; that runs in sandbox.py only. A program can be fooled by what is spliced
   in; our training reward cannot, because there the model's text is only ever data.
2. A program that lacks a package of the benchmark's own leaves n and is reported: that is no wrong answer.
3. In input prediction the steps beyond the trace of the committed input are left out, as in training.
4. The official limit of 3 s is of wall time. Here a program that was late, which on a busy machine says little, has a second
   run, limited to 3 s of its own CPU time: one that sleeps is right here and wrong there.
5. Where every example has the same outcome the bootstrap has no width; Wilson's bound for n examples stands in for it.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections import Counter
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np

import augment
import policy
import rewards
from tools import benchmarks, reval
from tools.benchmarks import Benchmark, judge, read_rows, repeated, verdicts

METRICS = {"final": "final accuracy", "step": "step accuracy", "gap": "gap", "wrong_trace": "right answer, wrong trace"}
BENCHMARKS = {"cruxeval-output": benchmarks.Crux("output"), "cruxeval-input": benchmarks.Crux("input"),
              "lcb-output": benchmarks.LiveCodeBench("output"), "lcb-input": benchmarks.LiveCodeBench("input"),
              "reval": reval.REval(), "humaneval": benchmarks.HumanEval(), "mbpp": benchmarks.MBPP()}
EXAMPLES = "runs/toy/test_examples.jsonl"  # the default of --data
NEEDED = "id", "code", "instrumented", "call", "anchors", "output", "task", "prompt"
BATCH = policy.ROWS  # responses between two lines of OUT.partial
Z2 = 1.96 ** 2


# ---------------------------------------------------------------------------------------------------------------------
# Numbers. An item is one response: id, final (1, 0, or None where it leaves n), steps (1 or 0 each) and the anchors
# [name, true value] that they are about.


def columns(items: list[dict]) -> np.ndarray:
    """[examples, 6]: what `percentages` divides, summed over the responses to each example.

    Only the first two are no sums: the share of right ones among its responses in n, and 1 or 0, whether any is in n. So pass@1 is a mean
    over problems, however many responses to each leave n."""
    rows = {}
    for item in items:
        right, steps = bool(item["final"]), item["steps"]
        values = (right, item["final"] is not None,  # is it right, is it in n
                  sum(steps), len(steps),  # right steps, all steps
                  right and sum(steps) < len(steps), right and len(steps) > 0)  # right with a wrong step, right with steps
        rows[item["id"]] = rows.get(item["id"], 0) + np.array(values, float)
    data = np.array(list(rows.values())).reshape(-1, 6)
    data[:, 0] /= np.maximum(data[:, 1], 1)  # how many are right becomes the share
    data[:, 1] = data[:, 1] > 0  # how many are in n becomes whether any is
    return data


def percentages(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The four percentages of summed columns, [..., 6]; nan where there is nothing to divide by."""
    right, counted, right_steps, steps, lucky, traced = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        final, step = 100 * right / counted, 100 * right_steps / steps
        return {"final": final, "step": step, "gap": final - step, "wrong_trace": 100 * lucky / traced}


def resamples(count: int, seed: int, draws: int = 2000) -> np.ndarray:
    """How often each of `count` examples is drawn in each bootstrap resample, [draws, count]."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def metric(value: float, spread: np.ndarray, n: int, percent: bool = True) -> dict:
    """{"value", "interval", "n"} for JSON, null for nan. spread: the value in each resample; percent: a share, from 0 to 100."""
    spread = spread[np.isfinite(spread)]
    if not np.isfinite(value) or not len(spread):
        return {"value": None, "interval": [None, None], "n": n}
    low, high = np.percentile(spread, [2.5, 97.5])
    if low == high and percent and value in (0, 100):  # all alike
        low, high = (0, 100 * Z2 / (n + Z2)) if value == 0 else (100 * n / (n + Z2), 100)
    return {"value": float(value), "interval": [float(low), float(high)], "n": n}


def summarize(items: list[dict], seed: int) -> dict:
    """The four metrics of the items; n is the number of examples that have what is counted: for "wrong_trace" a right answer."""
    if not items:
        return {name: metric(np.nan, np.array([]), 0) for name in METRICS}
    data = columns(items)
    values, spread = percentages(data.sum(0)), percentages(resamples(len(data), seed) @ data)
    sizes = {"final": (data[:, 1] > 0).sum(), "step": (data[:, 3] > 0).sum(), "wrong_trace": (data[:, 5] > 0).sum()}
    return {name: metric(values[name], spread[name], int(sizes.get(name, len(data))), name != "gap") for name in METRICS}


def mean(ids: list, values: list[float], seed: int, percent: bool = True) -> dict:
    """The metric that is a mean over items, all items of one id drawn together."""
    sums = {}
    for name, value in zip(ids, values):
        sums[name] = sums.get(name, 0) + np.array([value, 1.0])
    data = np.array(list(sums.values())).reshape(-1, 2)
    drawn = resamples(len(data), seed) @ data if len(data) else np.ones((0, 2))
    return metric(np.mean(values) if values else np.nan, drawn[:, 0] / drawn[:, 1], len(data), percent)


def without(item: dict, returns: bool, repeats: bool) -> dict:
    """The item without its return anchors, without anchors that repeat the value before them, or both."""
    anchors, kept = item["anchors"], []
    for i, (name, value) in enumerate(anchors):
        repeated_value = i > 0 and value == anchors[i - 1][1]
        if not (returns and name == "return_val" or repeats and repeated_value):
            kept.append(i)
    return item | {"steps": [item["steps"][i] for i in kept]}


def breakdown(items: list[dict], seed: int) -> dict:
    """Faithfulness from every side: without what comes free, by position, by number of anchors; budget and length."""
    longest, ids = max((len(item["steps"]) for item in items), default=0), [item["id"] for item in items]
    budgets = {i: rewards.reward_budget(item["steps"], item["final"]) for i, item in enumerate(items) if item["final"] is not None}
    lengths = sorted(item["tokens"] for item in items)
    return {
        "without": {"return anchors": summarize([without(item, True, False) for item in items], seed),
                    "repeated values": summarize([without(item, False, True) for item in items], seed),
                    "both": summarize([without(item, True, True) for item in items], seed)},
        "by_position": [summarize([item | {"steps": item["steps"][i:i + 1]} for item in items if len(item["steps"]) > i], seed)["step"]
                        for i in range(longest)],
        "by_anchors": {n: summarize([item for item in items if len(item["steps"]) == n], seed)
                       for n in sorted({len(item["steps"]) for item in items})},
        "reward_budget": mean([ids[i] for i in budgets], list(budgets.values()), seed, False),
        "tokens": mean(ids, [item["tokens"] for item in items], seed, False) | {"median": lengths[len(lengths) // 2], "range": [lengths[0], lengths[-1]]}}


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k): the chance that k of n samples, c of them right, hold a right one. Needs n >= k."""
    return 1 - comb(n - c, k) / comb(n, k)


def mean_pass_at_k(raw: dict[str, list[bool]], k: int) -> float | None:
    """The mean over problems, in percent; None where a problem has fewer than k samples. Problems without any leave n."""
    counts = [(len(judged), sum(judged)) for judged in raw.values() if judged]
    fewest = min((n for n, _ in counts), default=0)
    return 100 * float(np.mean([pass_at_k(n, c, k) for n, c in counts])) if fewest >= k else None


# ---------------------------------------------------------------------------------------------------------------------
# Responses, kept as they come


def fingerprint(args, prompts: list) -> str:
    """What the lines of OUT.partial depend on: the model's files, the prompts, the settings of sampling, and the responses in a line."""
    model = policy.digest(Path(args.model)) if Path(args.model).is_dir() else ""
    what = [str(args.model), model, prompts, args.samples, args.max_tokens, args.temperature, args.seed, args.sampler, BATCH]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def read_partial(path: Path, key: str) -> dict[int, list]:
    """{batch: its responses} of a run that was cut off. A last line that was not written to its end is sampled again."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            break
        if record["key"] != key:
            policy.fail(f"{path}: begun with another model, other data or other settings, or on another kind of machine; delete it, or choose another --out")
        found[record["batch"]] = record["responses"]
    return found


def generate(sampler, model, prompts: list[list[int]], partial: Path, args) -> list[list[policy.Sample]]:
    """args.samples responses to each prompt, [] for one too long for the context.

    The batches depend on the prompts alone, so what was sampled before a kill is what would have been sampled without it.
    """
    from tqdm import tqdm

    key = fingerprint(args, prompts)
    done = read_partial(partial, key)
    order = sorted((p for p in range(len(prompts)) if policy.fits(model, prompts[p], args.max_tokens)), key=lambda p: (len(prompts[p]), p))
    size = max(1, BATCH // args.samples)
    batches = [order[first:first + size] for first in range(0, len(order), size)]
    found = [[] for _ in prompts]

    def line(number: int) -> str:
        return json.dumps({"key": key, "batch": number, "responses": done[number]}) + "\n"

    with policy.writing(partial):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text("".join(map(line, done)))
    with policy.writing(partial), partial.open("a") as file, tqdm(total=len(order), desc=partial.stem) as bar:
        for number, batch in enumerate(batches):
            if number not in done:
                samples = sampler([prompts[p] for p in batch], args.samples, args.max_tokens, args.temperature, [(args.seed, p) for p in batch])
                done[number] = [[[sample.ids, sample.ended] for sample in some] for some in samples]
                file.write(line(number))
                file.flush()
            for p, some in zip(batch, done[number]):
                found[p] = [policy.Sample(ids, [], ended) for ids, ended in some]
            bar.update(len(batch))
    return found


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py --model ...


@dataclass
class Part:
    """One thing to evaluate, with a result file of its own: a benchmark, asked with or without anchors, or the examples of --data."""

    name: str
    benchmark: Benchmark | None
    anchors: bool
    out: Path
    rows: list[dict] | None   # the benchmark's
    questions: list[dict]     # what the model is asked, an example each
    without_anchors: Counter  # why questions have none

    @property
    def partial(self) -> Path:
        return self.out.with_name(self.out.name + ".partial")


def run(args) -> None:
    """Every benchmark, or the examples: sample, score, report, write."""
    if args.temperature == 0 and args.samples > 1:
        policy.fail("--samples above 1 needs a --temperature above 0: greedy responses are all alike")
    parts = find_parts(args)
    for part in parts:
        refuse_overwriting(part.out, args.data or EXAMPLES)
    args.sampler = policy.choose_sampler(args.sampler)  # what the result's settings say
    model, tokenizer = policy.load(args.model, weights=args.sampler == "transformers")
    encoded = [policy.encode_prompts(tokenizer, [question["prompt"] for question in part.questions]) for part in parts]
    lengths = [len(prompt) for prompts in encoded for prompt in prompts if policy.fits(model, prompt, args.max_tokens)]
    if (total := sum(map(len, encoded))) > 2 * len(lengths):
        policy.say(f"{total - len(lengths)} of {total} prompts do not fit the model's context with --max-tokens {args.max_tokens}; the toy reads those of --prompt bare")
    sampler = policy.make_sampler(args.sampler, args.model, model, tokenizer, max(lengths) + args.max_tokens) if lengths else None
    for part, prompts in zip(parts, encoded):
        samples = generate(sampler, model, prompts, part.partial, args)
        items = score_responses(tokenizer, part, samples)
        result = {"settings": {name: str(value) for name, value in vars(args).items()} | {"data": part.name}, "benchmark": part.name,
                  "anchors": part.anchors, "n": len(part.questions), **numbers(items, args.seed), "without_anchors": part.without_anchors}
        if part.benchmark is not None:
            result |= part.benchmark.extra(items, lambda ids, values: mean(ids, values, args.seed))
        done = "replaced" if part.out.exists() else "wrote"
        with policy.writing(part.out):  # whole or not at all
            temporary = part.out.with_name(part.out.name + ".tmp")
            temporary.write_text(json.dumps(result | {"items": items}))
            temporary.rename(part.out)
        print(describe(result), f"  {done} {part.out}", sep="\n")
    for part in parts:  # not before all is done: a killed run samples nothing again
        part.partial.unlink()


def refuse_overwriting(out: Path, *paths) -> None:
    """Ends the program where it would write over what it reads."""
    if path := augment.overwritten(out, paths):
        policy.fail(f"--out {out} would overwrite {path}, which is read")


def numbers(items: list[dict], seed: int) -> dict:
    """All that is counted over items."""
    found = {"summary": summarize(items, seed), **breakdown(items, seed)}
    failures, statuses = (dict(Counter(item[name] for item in items if item[name])) for name in ("failure", "status"))
    return found | {"failures": failures, "statuses": statuses}


def find_parts(args) -> list[Part]:
    """What the flags ask for."""
    if args.benchmark is None:
        return [Part(args.data or EXAMPLES, None, not args.plain, args.out or Path("runs/eval/result.json"), None, read_examples(args), Counter())]
    found, folder, names = [], args.out or Path("runs/eval/benchmarks"), list(dict.fromkeys(args.benchmark.split(",")))
    if unknown := [name for name in names if name not in BENCHMARKS]:
        policy.fail(f"--benchmark {unknown[0]}: there are {', '.join(BENCHMARKS)}")
    for name in names:
        benchmark = BENCHMARKS[name]
        read = read_rows(benchmark, args.data)[:args.limit]
        for condition in benchmark.conditions:
            rows = [dict(row) for row in read]  # REval's question notes in its row what it shows
            out = folder / (name + "-plain" * (condition == "plain" and len(benchmark.conditions) > 1) + ".json")
            found.append(Part(name, benchmark, condition == "anchors", out, rows, *benchmark.questions(rows, condition == "anchors", args.prompt)))
    return found


def read_examples(args) -> list[dict]:
    """The examples of augment.py; with --plain, each with the prompt that shows P and asks for the answer alone."""
    examples = policy.read_jsonl(Path(args.data or EXAMPLES), NEEDED)[:args.limit]
    if (name := repeated(examples)) is not None:
        policy.fail(f"{args.data or EXAMPLES}: two examples have the id {name!r}; give the programs ids, for augment.py")
    if args.plain:
        examples = [example | {"anchors": [], "instrumented": example["code"],
                               "prompt": augment.make_prompt(example["code"], example["call"], example["output"], example["task"], args.prompt, steps=False)}
                    for example in examples]
    return [example | {"shown": example["instrumented"]} for example in examples]


def score_responses(tokenizer, part: Part, samples: list[list[policy.Sample]]) -> list[dict]:
    """An item for each response: its scores, and what the report shows. A question too long to ask has as many as the others, empty ones."""
    questions, benchmark, rows = part.questions, part.benchmark, part.rows
    count = max(map(len, samples), default=0) or 1  # responses to a question
    flat = [(q, sample) for q, some in enumerate(samples) for sample in (some or [None] * count)]  # (question's index, response or None)
    asked = [questions[q] for q, _ in flat]
    texts = ["" if sample is None else policy.decode(tokenizer, sample.ids, sample.ended)[0] for _, sample in flat]
    parsed = [rewards.parse(text) for text in texts]
    traces = rewards.traces_of_inputs(parsed, asked)
    steps, masks, finals = rewards.score_parsed(parsed, asked, traces)
    answers = [response.answer for response in parsed]
    statuses = ["lost" if trace is not None and trace.status == "lost" else "" for trace in traces]  # it counts as wrong
    if benchmark is not None:
        answers = [benchmark.generation(rows[q], text) for (q, _), text in zip(flat, texts)]
        given = [benchmark.unanswered(rows[q]) if answer is None else answer for (q, _), answer in zip(flat, answers)]
        judged = iter(judge(benchmark, [(rows[q], text) for (q, _), text in zip(flat, given) if text is not None]))
        statuses = ["" if text is None else next(judged) for text in given]
        finals = []
        for _, some in itertools.groupby(zip(flat, statuses), key=lambda pair: pair[0][0]):  # the responses to one question
            finals += [None if right is None else float(right) for right in verdicts(benchmark, [status for _, status in some])]
    items = []
    for i, (q, sample) in enumerate(flat):
        question, n = questions[q], sum(masks[i])  # n: steps in the trace, the first n of the mask
        committed = question["task"] == "input" and traces[i] is not None and traces[i].status == "ok"
        true = [[name, text] for _, name, text in traces[i].anchors] if committed else question["anchors"]
        items.append({"id": question["id"], "final": finals[i], "steps": steps[i][:n], "anchors": true[:n],
                      "predicted": [block.text for block in parsed[i].blocks], "answer": answers[i], "status": statuses[i],
                      "failure": failure(sample, texts[i], answers[i]), "tokens": 0 if sample is None else len(sample.ids),
                      "ended": sample is not None and sample.ended, "response": texts[i], "program": question["shown"],
                      "call": question["call"], "output": question["output"], "task": question["task"]})
    return items


def failure(sample, text: str, answer: str | None) -> str:
    """Why a response has no answer, or "" where it has one."""
    if answer is not None:
        return ""
    if sample is None:
        return "prompt longer than the context"
    if not text.strip():
        return "empty response"
    return "no answer tag" if sample.ended else "cut at the length limit before an answer"


def describe(result: dict) -> str:
    """A result for the terminal."""
    settings = result["settings"]
    lines = [f"{settings['model']} on {result['benchmark']}, {'with' if result['anchors'] else 'without'} anchors: {result['n']} examples, "
             f"temperature {settings['temperature']}"]
    lines += [f"  {label:<26}{show(result['summary'][name])}" for name, label in METRICS.items()]
    lines += [f"    {f'without {what}':<24}step {show(part['step'])}, right answer, wrong trace {show(part['wrong_trace'])}"
              for what, part in result["without"].items() if part["step"]["value"] is not None]
    lines += [f"  {name:<26}{show(value)}" for name, value in result.get("tasks", {}).items()]
    budget, tokens = result["reward_budget"], result["tokens"]
    share = "none" if budget["value"] is None else f"{budget['value']:5.2f}  of 2"
    lines.append(f"  reward budget             {share};  response tokens: mean {tokens['value']:.1f}, median {tokens['median']}")
    for what, counts in (("no answer", result["failures"]), ("no anchors in the prompt", result["without_anchors"]),
                         ("run of a program", {name: count for name, count in result["statuses"].items() if name not in ("ok", "error")})):
        lines += [f"  {count:5} {what}: {kind}" for kind, count in counts.items()]
    return "\n".join(lines)


def show(metric: dict) -> str:
    """A percentage, its interval and n as text."""
    low, high = metric["interval"]
    return "none" if metric["value"] is None else f"{metric['value']:5.1f}  [{low:.1f}, {high:.1f}]  n = {metric['n']}"


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py compare A B


def compare(args) -> None:
    """Print B - A per metric with the 95% interval of the paired bootstrap over examples."""
    first, second = {}, {}
    results = [read_result(path) for path in (args.first, args.second)]
    for found, result in zip((first, second), results):
        for item in result["items"]:
            found.setdefault(item["id"], []).append(item)
    if first.keys() != second.keys():
        policy.fail(f"{args.first} and {args.second} are not about the same examples")
    data = [columns([item for name in first for item in found[name]]) for found in (first, second)]
    drawn = resamples(len(first), args.seed)
    values, spreads = [percentages(part.sum(0)) for part in data], [percentages(drawn @ part) for part in data]
    print(f"{args.second} minus {args.first}, {len(first)} examples")
    for name in ("data", "plain", "prompt", "samples", "temperature", "max_tokens"):
        one, other = (result.get("settings", {}).get(name) for result in results)
        if one != other:
            print(f"  note: {name} was {one} and {other}")
    for name, label in METRICS.items():
        change = metric(values[1][name] - values[0][name], spreads[1][name] - spreads[0][name], len(first), False)
        low, high = change["interval"]
        print(f"  {label:<26}" + ("none" if change["value"] is None else f"{change['value']:+5.1f}  [{low:+.1f}, {high:+.1f}]"))


def read_json(path: Path):
    """The content of a JSON file; ends the program if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        policy.fail(f"{path}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        policy.fail(f"{path}: not JSON: {error}")


def read_result(path: Path) -> dict:
    """A result file of `run`."""
    result = read_json(path)
    items = result.get("items") if isinstance(result, dict) else None
    if not isinstance(items, list) or not items or not all(isinstance(item, dict) and {"id", "final", "steps"} <= item.keys() for item in items):
        policy.fail(f"{path}: not a result of evaluate.py")
    return result


# ---------------------------------------------------------------------------------------------------------------------
# python evaluate.py score


def score(args) -> None:
    """Official scores of a generations file."""
    refuse_overwriting(args.out, args.data, args.generations)
    benchmark = BENCHMARKS[args.benchmark]
    rows = {row["id"]: row for row in read_rows(benchmark, str(args.data), whole=True)}
    generations = {name: [benchmark.gold(row)] for name, row in rows.items()} if str(args.generations) == "gold" else read_generations(args.generations, rows)
    statuses = iter(judge(benchmark, [(rows[name], text) for name, texts in generations.items() for text in texts]))
    by_problem = {name: [next(statuses) for _ in texts] for name, texts in generations.items()}
    judged = {name: verdicts(benchmark, some) for name, some in by_problem.items()}
    raw = {name: [right for right in some if right is not None] for name, some in judged.items()}
    at = {k: mean_pass_at_k(raw, k) for k in (1, 5)}
    items = [{"id": name, "final": right} for name, some in judged.items() for right in some]
    more = benchmark.extra(items, lambda ids, values: mean(ids, values, 0))
    with policy.writing(args.out):
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"pass_at_1": at[1], "pass_at_5": at[5], "raw_scored_generations": raw, **more}))
    counts = Counter(status for some in by_problem.values() for status in some)
    passed = mean([name for name, some in raw.items() if some], [100 * float(np.mean(some)) for some in raw.values() if some], 0)
    print(f"{args.benchmark}: pass@1 {show(passed)}" + ("" if at[5] is None else f", pass@5 {at[5]:.1f}") +
          f" ({len(raw)} of {len(rows)} problems, {sum(counts.values())} generations)")
    for name, value in more.get("tasks", {}).items():
        print(f"  {name:<26}{show(value)}")
    print("\n".join(f"  {count:6} {({'ok': 'right', 'error': 'wrong'}).get(status, status)}" for status, count in counts.most_common()))
    if counts["missing"]:
        print(f"  {counts['missing']} programs need a package that is not installed here; they are left out", file=sys.stderr)


def read_generations(path: Path, rows: dict) -> dict[str, list[str]]:
    """{id: [generation, ...]} of a file in CRUXEval's format, checked against the benchmark's ids."""
    generations = read_json(path)
    if not isinstance(generations, dict) or not generations:
        policy.fail(f"{path}: expected an object of id -> list of generations")
    for name, texts in generations.items():
        if name not in rows:
            policy.fail(f"{path}: {name!r} is not a problem of the benchmark")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            policy.fail(f"{path}: {name!r} is not a non-empty list of strings")
    return generations


# ---------------------------------------------------------------------------------------------------------------------


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Evaluate a model (run, the default), compare two results, or score a file of generations.",
                                     epilog="Options of the default: python evaluate.py run --help")
    commands = parser.add_subparsers(dest="action", required=True)
    add = commands.add_parser("run", help="sample, score and report").add_argument
    # what
    add("--model", default="runs/rl/model", help="checkpoint folder or Hugging Face id")
    add("--benchmark", metavar="NAME[,NAME...]", help=f"{', '.join(BENCHMARKS)} (default: the examples of --data)")
    add("--data", help="examples, JSONL from augment.py (default: the toy's); with --benchmark a file, folder or Hugging Face id")
    add("--limit", type=policy.positive(int), help="use only the first examples")
    add("--plain", action="store_true", help="ask about the examples of --data without anchors (benchmarks that have anchors are asked both ways)")
    add("--prompt", choices=["instruct", "bare"], default="instruct", help="form of the prompts of benchmarks and of --plain; bare: the toy's, without explanation")
    # sampling
    add("--samples", type=policy.positive(int), default=1, help="responses to each prompt")
    add("--temperature", type=policy.positive(float, or_zero=True), default=0.0, help="0 is greedy")
    add("--sampler", choices=["auto", "vllm", "transformers"], default="auto", help="auto: vllm where it is installed and there is a GPU")
    add("--max-tokens", type=policy.positive(int), default=256, help="length limit of a response")
    add("--seed", type=policy.positive(int, or_zero=True), default=0, help="of sampling and of the bootstrap")
    add("--out", type=Path, help="result file; with --benchmark a folder")
    add = commands.add_parser("compare", help="paired bootstrap of the difference of two result files").add_argument
    add("first", type=Path, help="result file of `run`")
    add("second", type=Path, help="another, on the same examples")
    add("--seed", type=policy.positive(int, or_zero=True), default=0, help="of the bootstrap")
    add = commands.add_parser("score", help="a benchmark's official score of a file of generations").add_argument
    add("--benchmark", required=True, choices=list(BENCHMARKS), help="whose rule is applied")
    add("--data", type=Path, required=True, help="the benchmark's file, or the folder with it")
    add("--generations", type=Path, required=True, help='JSON: {"sample_0": ["...", ...], ...}, or the word gold')
    add("--out", type=Path, required=True, help="scores, JSON")
    return parser


@policy.memory_errors()
def main() -> None:
    words = sys.argv[1:]
    if not words or words[0].startswith("--") and words[0] != "--help":
        words = ["run", *words]
    args = build_parser().parse_args(words)
    try:
        {"run": run, "compare": compare, "score": score}[args.action](args)
    except KeyboardInterrupt:
        policy.say("interrupted; the same command goes on from here")
        sys.exit(130)


if __name__ == "__main__":
    main()
