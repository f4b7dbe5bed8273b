"""evaluate.py and tools/benchmarks.py: the numbers by hand, each official rule with its quirks, runs that are killed, long, or empty."""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import augment
import evaluate
import policy
import rewards
import toy
from test_rewards import LONG
from tools import benchmarks


def item(name, final, steps, anchors=None, **more):
    return {"id": name, "final": final, "steps": steps, "anchors": anchors or [["x", str(i)] for i in range(len(steps))], "tokens": 10} | more


ITEMS = [item("a", 1.0, [1.0, 1.0]), item("b", 1.0, [1.0, 0.0]), item("c", 0.0, [0.0, 0.0, 1.0]), item("d", 0.0, [1.0])]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    evaluate.main()


def total(items):
    return {name: float(value) for name, value in evaluate.percentages(evaluate.columns(items).sum(0)).items()}


# ---------------------------------------------------------------------------------------------------------------------
# Numbers


def test_percentages_by_hand():
    # final: 2 of 4. step: 2 + 1 + 1 + 1 = 5 of 2 + 2 + 3 + 1 = 8 anchors. Of the two right answers one has a wrong anchor.
    assert total(ITEMS) == {"final": 50.0, "step": 62.5, "gap": -12.5, "wrong_trace": 50.0}


def test_n_of_wrong_traces_is_that_of_right_answers_with_anchors():
    assert evaluate.summarize(ITEMS, 0)["wrong_trace"]["n"] == 2


def test_samples_of_one_example_are_drawn_together_in_means_too():
    # 50 examples, half of them right in all ten samples: half the width is 1.96 x 50 / sqrt(50) = 13.9, not 1.96 x 50 / sqrt(500)
    low, high = evaluate.mean([i for i in range(50) for _ in range(10)], [100.0 * (i % 2) for i in range(50) for _ in range(10)], 0)["interval"]
    assert 24 < high - low < 32


def test_the_first_anchor_repeats_none():
    one = item("a", 1.0, [0.0, 1.0, 1.0], [["a", "1"], ["b", "2"], ["c", "1"]])  # the last value is the first's, not that before it
    assert evaluate.breakdown([one], 0)["without"]["repeated values"]["step"]["value"] == pytest.approx(200 / 3)


def test_an_answer_without_anchors_is_no_faithful_trace():
    # e is right and has no anchor: it counts for final (3 of 5), and is no evidence about traces (still 1 of 2).
    assert total([*ITEMS, item("e", 1.0, [])]) == {"final": 60.0, "step": 62.5, "gap": pytest.approx(-2.5), "wrong_trace": 50.0}


def test_a_response_that_leaves_n():
    # None is neither right nor wrong: final stays 2 of 4
    assert total([*ITEMS, item("e", None, [])])["final"] == 50.0


def test_pass_at_1_is_a_mean_over_problems():
    # a: one right, one leaves n; b: two wrong. The official mean of 1/1 and 0/2 is 50, not 1 of 3 responses.
    items = [item("a", 1.0, []), item("a", None, []), item("b", 0.0, []), item("b", 0.0, [])]
    assert total(items)["final"] == 50.0 == evaluate.mean_pass_at_k({"a": [True], "b": [False, False]}, 1)


def test_what_leaves_n_is_not_counted_in_n():
    # one right answer and two programs that lack a package: n = 1, and Wilson's bound for 1 example is 1 / (1 + 1.96^2)
    items = [item("a", 1.0, []), item("b", None, []), item("c", None, [])]
    found = evaluate.summarize(items, 0)["final"]
    assert found["n"] == 1 and found["interval"][0] == pytest.approx(100 / (1 + 1.96 ** 2))
    assert evaluate.breakdown(items, 0)["reward_budget"]["value"] == 1.0
    left_out = [one | {"failure": "", "status": "missing"} for one in items[1:]]  # nothing is left to count, and that is said
    result = {"settings": {"model": "m", "temperature": "0"}, "benchmark": "b", "anchors": True, "n": 2, "without_anchors": {}}
    assert "reward budget             none" in evaluate.describe(result | evaluate.numbers(left_out, 0))


def test_without_a_right_answer_there_is_no_share_of_wrong_traces():
    summary = evaluate.summarize([ITEMS[2], ITEMS[3]], seed=0)
    assert summary["wrong_trace"] == {"value": None, "interval": [None, None], "n": 0}
    assert summary["final"]["value"] == 0.0 and summary["final"]["n"] == 2


def test_where_all_are_alike_the_interval_has_a_width():
    # Wilson, 0 of 2: z^2 / (n + z^2) = 3.8416 / 5.8416 = 65.8 percent
    low, high = evaluate.summarize([ITEMS[2], ITEMS[3]], seed=0)["final"]["interval"]
    assert low == 0 and high == pytest.approx(65.76, abs=0.01)
    low, high = evaluate.summarize(ITEMS[:2], seed=0)["final"]["interval"]
    assert low == pytest.approx(34.24, abs=0.01) and high == 100


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        items = [item(i, float(x), [float(x)]) for i, x in enumerate(rng.random(60) < 0.6)]
        low, high = evaluate.summarize(items, seed=trial)["final"]["interval"]
        hits += low <= 60 <= high
    assert 0.90 <= hits / 100 <= 0.99


def test_samples_of_one_example_are_drawn_together():
    # 50 examples, all ten samples of each alike: as uncertain as 50 examples, not as 500 (sd 7.1 percent against 2.2)
    items = [item(i, float(i % 2), []) for i in range(50) for _ in range(10)]
    low, high = evaluate.summarize(items, seed=0)["final"]["interval"]
    assert 24 < high - low < 32


def test_without_free_anchors_by_hand():
    # anchors a=1, b=1 (repeats a), c=2, return_val=2 (a return, and repeats c); steps 1, 1, 0, 1
    one = item("a", 1.0, [1.0, 1.0, 0.0, 1.0], [["a", "1"], ["b", "1"], ["c", "2"], ["return_val", "2"]])
    found = evaluate.breakdown([one], 0)["without"]
    assert found["return anchors"]["step"]["value"] == pytest.approx(200 / 3)   # a, b, c: 1 1 0
    assert found["repeated values"]["step"]["value"] == 50.0                    # a, c: 1 0
    assert found["both"]["step"]["value"] == 50.0
    lucky = item("b", 1.0, [1.0, 0.0], [["a", "1"], ["return_val", "1"]])       # only the return is wrong
    found = evaluate.breakdown([one, lucky], 0)
    assert evaluate.summarize([one, lucky], 0)["wrong_trace"]["value"] == 100.0
    assert found["without"]["return anchors"]["wrong_trace"]["value"] == 50.0


def test_by_position_and_by_number_of_anchors_by_hand():
    found = evaluate.breakdown(ITEMS, 0)
    assert [part["value"] for part in found["by_position"]] == [75.0, pytest.approx(100 / 3), 100.0]  # 1 1 0 1; 1 0 0; 1
    assert [part["n"] for part in found["by_position"]] == [4, 3, 1]
    assert {n: part["step"]["value"] for n, part in found["by_anchors"].items()} == {1: 100.0, 2: 75.0, 3: pytest.approx(100 / 3)}
    assert found["by_anchors"][2]["final"]["value"] == 100.0


def test_the_reward_budget_and_the_tokens():
    # each rollout: share of right steps plus answer. a 1+1, b 1/2+1, c 1/3+0, d 1+0: mean (2 + 1.5 + 1/3 + 1) / 4
    found = evaluate.breakdown([one | {"tokens": 10 * (i + 1)} for i, one in enumerate(ITEMS)], 0)
    assert found["reward_budget"]["value"] == pytest.approx((2 + 1.5 + 1 / 3 + 1) / 4)
    assert found["tokens"]["value"] == 25 and found["tokens"]["range"] == [10, 40]


def test_compare_pairs_by_id(tmp_path, monkeypatch, capsys):
    better = [dict(one, final=1.0) for one in reversed(ITEMS)]  # another order: the same examples
    for name, items in (("a", ITEMS), ("b", better)):
        (tmp_path / name).write_text(json.dumps({"items": items}))
    run(monkeypatch, "compare", tmp_path / "a", tmp_path / "b")
    out = capsys.readouterr().out
    assert "final accuracy            +50.0" in out and "step accuracy              +0.0  [+0.0, +0.0]" in out
    (tmp_path / "b").write_text(json.dumps({"items": better[1:]}))
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "compare", tmp_path / "a", tmp_path / "b")
    assert stop.value.code == 2 and "not about the same examples" in capsys.readouterr().err


def test_pass_at_k():
    assert evaluate.pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert evaluate.pass_at_k(5, 1, 5) == 1.0
    assert evaluate.pass_at_k(6, 2, 5) == 1.0  # C(4, 5) = 0: five of six samples with two right always hold one
    assert evaluate.pass_at_k(10, 2, 5) == pytest.approx(1 - 56 / 252)  # C(8,5) / C(10,5)
    # the scorers' own code calls n - c < k a pass: a task with four wrong samples would have pass@5 = 100
    assert evaluate.mean_pass_at_k({"a": [False] * 4}, 5) is None
    assert evaluate.mean_pass_at_k({"a": [True] * 5, "b": [True] * 4}, 5) is None
    assert evaluate.mean_pass_at_k({"a": [True, False], "b": []}, 1) == 50.0  # b has left n


# ---------------------------------------------------------------------------------------------------------------------
# Official rules


ROWS = [{"id": "sample_0", "code": "def f(x):\n    return x + 1", "input": "1", "output": "2"},
        {"id": "sample_1", "code": "def f(s):\n    return s * 2", "input": "'ab'", "output": "'abab'"}]


def official(tmp_path, monkeypatch, benchmark, generations, rows=ROWS):
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))  # no final newline, as in the published file
    (tmp_path / "generations.json").write_text(json.dumps(generations))
    where = "gold" if generations == "gold" else tmp_path / "generations.json"
    run(monkeypatch, "score", "--benchmark", benchmark, "--data", tmp_path / "data.jsonl", "--generations", where, "--out", tmp_path / "out.json")
    return json.loads((tmp_path / "out.json").read_text())


def test_output_prediction_by_the_official_rule(tmp_path, monkeypatch):
    # 2.0 == 2 passes the official assert; f(1), the call itself, is wrong unseen; what does not parse or raises is wrong.
    scores = official(tmp_path, monkeypatch, "cruxeval-output", {
        "sample_0": ["2", "2.0", "f(1)", "3", "2 +", "f( 1)"], "sample_1": ["'abab'", '"ab" * 2', "abab", "", "1/0", "'ab'"]})
    assert scores["raw_scored_generations"] == {"sample_0": [True, True, False, False, False, True],
                                                "sample_1": [True, True, False, False, False, False]}
    assert scores["pass_at_1"] == pytest.approx(100 * (3 / 6 + 2 / 6) / 2)
    assert scores["pass_at_5"] == pytest.approx(100.0)  # of six samples at most four are wrong: any five hold a right one
    assert set(scores) == {"pass_at_1", "pass_at_5", "raw_scored_generations"}


def test_input_prediction_by_the_official_rule(tmp_path, monkeypatch):
    # another input with the right output passes; an argument list without the call is wrong unseen.
    scores = official(tmp_path, monkeypatch, "cruxeval-input", {"sample_0": ["f(1)", "1", "2"], "sample_1": ["f('ab')", "f('ab') + ''", "'abab'"]})
    assert scores["raw_scored_generations"] == {"sample_0": [True, False, False], "sample_1": [True, True, False]}
    assert scores["pass_at_1"] == 50.0 and scores["pass_at_5"] is None  # two samples are too few for pass@5


LCB = [{"id": "sample_7", "function_name": "g", "output": "[1, 2]", "input": "g(nums = [2, 1])",
        "code": "def g(nums: List[int]) -> List[int]:\n    assert floor(1.5) == 1 and np.array([1])[0] == 1 and bisect.bisect([1], 0) == 0\n    return sorted(nums)"}]


def test_livecodebench_output(tmp_path, monkeypatch):
    # List comes from the imports that the benchmark puts before the code; without them all are wrong. The generation with the call in it is skipped and leaves n; under CRUXEval's rule it would stay, as False.
    scores = official(tmp_path, monkeypatch, "lcb-output", {"sample_7": ["[1, 2]", "g(nums = [2, 1])", "[2, 1]"]}, LCB)
    assert scores["raw_scored_generations"] == {"sample_7": [True, False]} and scores["pass_at_1"] == 50.0
    scores = official(tmp_path, monkeypatch, "lcb-output", {"sample_7": ["g(nums = [2, 1])", "sorted(g(nums = [2, 1]))"]}, LCB)
    assert scores["raw_scored_generations"] == {"sample_7": [False, False]}  # where all are skipped, all are wrong


def test_livecodebench_input(tmp_path, monkeypatch):
    # here g runs, so floor, np and the module bisect (not the function of that name) are needed too
    scores = official(tmp_path, monkeypatch, "lcb-input", {"sample_7": ["g([1, 2])", "g(nums=[2, 1])", "[1, 2]", "f([1, 2])"]}, LCB)
    assert scores["raw_scored_generations"] == {"sample_7": [True, True, False, False]}


def test_a_package_that_is_missing_is_no_wrong_answer(tmp_path, monkeypatch, capsys):
    rows = [*ROWS, {"id": "sample_2", "code": "import no_such_package\ndef f(x):\n    return x", "input": "1", "output": "1"}]
    generations = {"sample_0": ["2", "__import__('no_such_package')", "__import__('f')"], "sample_2": ["1", "2"]}
    scores = official(tmp_path, monkeypatch, "cruxeval-output", generations, rows)
    # the program of sample_2 cannot run here, so it leaves n; the generation that asks for a missing package is just wrong
    assert scores["raw_scored_generations"] == {"sample_0": [True, False, False], "sample_2": []} and scores["pass_at_1"] == pytest.approx(100 / 3)
    assert "2 programs need a package that is not installed" in capsys.readouterr().err


def test_endless_programs_are_wrong_and_equal_ones_run_once(tmp_path, monkeypatch):
    programs = []
    original = benchmarks.sandbox.trace_many
    monkeypatch.setattr(benchmarks.sandbox, "trace_many", lambda jobs, **options: original(keep(jobs, programs), **options | {"timeout": 0.3}))
    loop = "[x for x in iter(int, 1)]"
    scores = official(tmp_path, monkeypatch, "cruxeval-output", {"sample_0": ["2", "2", "2", loop, "2", "2"]})
    assert scores["raw_scored_generations"]["sample_0"] == [True, True, True, False, True, True]
    assert len(programs) == 3  # 2, the loop, and the loop's second chance
    assert all(program.startswith("import resource") for program, _ in programs)  # none may take more CPU time, on however busy a machine


def test_the_limit_is_one_of_cpu_time():
    used = "import time\nwhile time.process_time() < 1.3: pass"
    assert [benchmarks.sandbox.trace(head + used, "", timeout=5).status for head in ("", benchmarks.HEAD.format(seconds=1))] == ["ok", "killed"]


def keep(jobs, found):
    for job in jobs:
        found.append(job)
        yield job


HUMANEVAL = [{"task_id": "HumanEval/0", "prompt": "import math\n\ndef up(x):\n    \"\"\"one more\"\"\"\n", "entry_point": "up",
              "canonical_solution": "    return x + 1\n", "test": "def check(candidate):\n    assert candidate(1) == 2 and math.pi\n"}]
MBPP = [{"task_id": 11, "text": "Write a function that doubles.", "code": "def twice(x):\n    return 2 * x",
         "test_setup_code": "one = twice(1)", "test_list": ["assert one == 2", "assert twice(3) == 6"]},
        *({"task_id": number, "text": "Not in the test split.", "code": "y = 1", "test_setup_code": "", "test_list": ["assert y == 1"]} for number in (10, 511))]


def test_humaneval(tmp_path, monkeypatch):
    benchmark = benchmarks.HumanEval()
    row = benchmark.row(HUMANEVAL[0])
    whole = benchmark.generation(row, "Sure!\n```python\ndef up(x):\n    return x + 1\n```\nDone.")
    body = benchmark.generation(row, "    return x + 1")
    assert whole == "\ndef up(x):\n    return x + 1\n" and body == "    return x + 1"
    assert benchmark.generation(row, "") is None
    for word in ("", "python ", " python", "python3.11", 'python title="up.py"'):
        assert benchmark.generation(row, f"Sure!\n```{word}\ndef up(x):\n    return x + 1\n```") == whole
    assert benchmark.generation(row, "```python\n    return x + 1") == "    return x + 1"  # cut before the closing fence
    scores = official(tmp_path, monkeypatch, "humaneval", {"HumanEval/0": [whole, body, "    return x", "\ndef down(x):\n    return x + 1"]}, HUMANEVAL)
    assert scores["raw_scored_generations"] == {"HumanEval/0": [True, True, False, False]}
    main = body + "\n\nif __name__ == '__main__':\n    print(up(int(input())))"  # exec, by which the official scorer runs it, makes no __main__
    assert official(tmp_path, monkeypatch, "humaneval", {"HumanEval/0": [main]}, HUMANEVAL)["raw_scored_generations"] == {"HumanEval/0": [True]}
    assert official(tmp_path, monkeypatch, "humaneval", "gold", HUMANEVAL)["pass_at_1"] == 100.0


def test_mbpp(tmp_path, monkeypatch):
    # the set-up code uses twice, so it must come after the code; the second test must count too
    scores = official(tmp_path, monkeypatch, "mbpp", {"11": ["def twice(x):\n    return 2 * x", "def twice(x):\n    return 2"]}, MBPP)
    assert scores["raw_scored_generations"] == {"11": [True, False]}
    assert official(tmp_path, monkeypatch, "mbpp", "gold", MBPP)["pass_at_1"] == 100.0
    assert [row["id"] for row in benchmarks.read_rows(benchmarks.MBPP(), tmp_path / "data.jsonl")] == ["11"]  # the test split: 11 to 510
    assert len(benchmarks.read_rows(benchmarks.MBPP(), tmp_path / "data.jsonl", whole=True)) == 3


def test_answers_of_a_chat_model():
    output, inputs = benchmarks.Crux("output"), benchmarks.Crux("input")
    row = output.row(ROWS[0])
    assert output.generation(row, "<reasoning>r</reasoning><answer>2</answer>") == "2"
    assert output.generation(row, "[ANSWER]assert f(1) == 'a==b'[/ANSWER] [ANSWER]3[/ANSWER]") == "'a==b'"  # the first answer, the first ==
    assert output.generation(row, "[ANSWER]\n2\n") == "2"  # never closed
    assert inputs.generation(row, "<answer>1</answer>") == "f(1)"
    assert inputs.generation(row, "[ANSWER]assert f(1) == 2[/ANSWER]") == "f(1)"
    assert inputs.generation(row, "[ANSWER]\n```python\n# so x is 1\nassert f(1) == 2\n```\n[/ANSWER]") == "f(1)"
    live = benchmarks.LiveCodeBench("output")  # the next two are closed, the others end with a line, or with the next ==
    for text in ("assert g(nums = [2, 1]) == [1, 2] [/ANSWER]", "[1, 2]\n[/ANSWER]", "[1, 2]\nSince sorted.", "assert g(nums = [2, 1]) == [1, 2]\nThis holds.",
                 "\nassert g(nums = [2, 1]) == [1, 2]\nassert g(nums = [2, 1]) == [1, 2]\n[/ANSWER]"):
        assert live.generation(row, f"So: [ANSWER]{text}") == "[1, 2]"
    assert benchmarks.LiveCodeBench("input").generation(row, "[ANSWER]assert g([2]) == [2][/ANSWER]") == "g([2])"
    assert output.generation(row, "2") is None


@pytest.mark.parametrize("generations, message", [
    ({"sample_7": ["1"]}, "'sample_7' is not a problem"), ({"sample_0": "1"}, "not a non-empty list"), ([], "expected an object"),
    ({"sample_0": [1]}, "not a non-empty list")])
def test_a_bad_generations_file_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, generations, message):
    with pytest.raises(SystemExit) as stop:
        official(tmp_path, monkeypatch, "cruxeval-output", generations)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.startswith("error: ") and error.count("\n") == 1


def real(name: str) -> Path:
    path = Path(os.environ.get("STEPCODE_DATA", "data")) / name
    if not path.is_file():
        pytest.skip(f"{path} is absent (set STEPCODE_DATA to the folder that holds it)")
    return path


def test_the_reference_answers_of_cruxeval_score_100(tmp_path, monkeypatch):
    data = real("cruxeval.jsonl")
    rows = [json.loads(line) for line in data.read_text().splitlines()][:60]
    (tmp_path / "generations.json").write_text(json.dumps({row["id"]: [row["output"], "None"] for row in rows}))
    run(monkeypatch, "score", "--benchmark", "cruxeval-output", "--data", data, "--generations", tmp_path / "generations.json",
        "--out", tmp_path / "out.json")
    verdicts = json.loads((tmp_path / "out.json").read_text())["raw_scored_generations"]
    assert all(right for right, _ in verdicts.values())
    assert sum(wrong for _, wrong in verdicts.values()) == sum(row["output"] == "None" for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("benchmark, count", [("cruxeval-output", 800), ("cruxeval-input", 800), ("lcb-output", 14), ("lcb-input", 14),
                                              ("humaneval", 164), ("mbpp", 974)])
def test_every_gold_answer_passes(tmp_path, monkeypatch, benchmark, count):
    run(monkeypatch, "score", "--benchmark", benchmark, "--data", real(evaluate.BENCHMARKS[benchmark].file), "--generations", "gold",
        "--out", tmp_path / "out.json")
    scores = json.loads((tmp_path / "out.json").read_text())
    assert len(scores["raw_scored_generations"]) == count and scores["pass_at_1"] == 100.0


# ---------------------------------------------------------------------------------------------------------------------
# Runs, with a tiny model made on the spot


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a tiny model, examples of both tasks and small benchmarks."""
    path = tmp_path_factory.mktemp("evaluate")
    programs = list(toy.programs(6, True, 2, 0))
    examples = list(augment.build(programs, task="both", prompt="bare"))
    tokenizer = toy.make_tokenizer(example["prompt"] for example in examples)
    model = toy.make_model(tokenizer, width=16, layers=1)
    model.save_pretrained(path / "model")
    tokenizer.save_pretrained(path / "model")
    more = {"id": "sample_2", "code": "f = lambda x: x", "input": "1", "output": "1"}  # no def: it cannot be given anchors
    for name, rows in {"examples.jsonl": examples, "cruxeval.jsonl": [*ROWS, more], "lcb_execution_sample.jsonl": LCB, "mbpp.jsonl": MBPP}.items():
        (path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(folder, **more):
    return argparse.Namespace(**{"model": str(folder / "model"), "samples": 1, "max_tokens": 12, "temperature": 0.0, "seed": 0,
                                 "sampler": "transformers"} | more)


def loaded(folder):
    model, tokenizer = policy.load(str(folder / "model"))
    examples = policy.read_jsonl(folder / "examples.jsonl", ())
    return policy.TransformersSampler(model, tokenizer), model, policy.encode_prompts(tokenizer, [example["prompt"] for example in examples])


def test_a_run_counts_every_example_and_why_it_has_no_answer(folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--model", folder / "model", "--data", folder / "examples.jsonl", "--max-tokens", 12, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["n"] == len(result["items"]) == 12 and sum(result["failures"].values()) == 12
    assert result["summary"]["final"]["value"] == 0.0 and not list(tmp_path.glob("*.partial"))
    assert "cut at the length limit before an answer" in capsys.readouterr().out
    run(monkeypatch, "--model", folder / "model", "--data", folder / "examples.jsonl", "--max-tokens", 12, "--out", tmp_path / "plain.json", "--plain")
    plain = json.loads((tmp_path / "plain.json").read_text())
    assert plain["summary"]["step"]["value"] is None and "print" not in plain["items"][0]["program"]


def test_benchmarks_by_name_with_and_without_anchors(folder, tmp_path, monkeypatch):
    run(monkeypatch, "--model", folder / "model", "--benchmark", "cruxeval-output,cruxeval-input,lcb-output,mbpp", "--data", folder,
        "--prompt", "bare", "--max-tokens", 4, "--out", tmp_path)
    names = ["cruxeval-input-plain.json", "cruxeval-input.json", "cruxeval-output-plain.json", "cruxeval-output.json", "lcb-output-plain.json",
             "lcb-output.json", "mbpp.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    with_anchors, plain = (json.loads((tmp_path / name).read_text()) for name in ("cruxeval-output.json", "cruxeval-output-plain.json"))
    assert with_anchors["n"] == plain["n"] == 3  # also the one that cannot be given anchors
    assert sum(with_anchors["without_anchors"].values()) == 1 and plain["without_anchors"] == {}
    assert "print(f'" in with_anchors["items"][0]["program"] and "print" not in plain["items"][0]["program"]
    lcb = json.loads((tmp_path / "lcb-output.json").read_text())["items"][0]
    assert "import" not in lcb["program"] and len(lcb["anchors"]) == 1  # the imports were there for the trace, and are not shown
    rows = [benchmarks.LiveCodeBench("output").row(LCB[0] | {"code": "def g(nums):\n    if nums: return sorted(nums)\n    return nums"})]
    [question], _ = benchmarks.LiveCodeBench("output").questions(rows, True, "instruct")  # laid out anew, and the imports with it
    assert len(question["anchors"]) == 1 and "import" not in question["prompt"] and question["shown"].startswith("def g(nums):\n    if nums:\n        return_val = ")


def test_reval_by_name(folder, tmp_path, monkeypatch):
    program = {"task_id": "DREval/0", "entry_point": "f", "code": "def f(x):\n    y = x + 1\n    return y * 2", "inputs": ["(1,)"], "outputs": ["4"], "test": None}
    asked = {"task_id": "DREval/0", "idx": 0, "tasks": [{"input_idx": 0, "task": [{"lineno": 2, "var": "y"}], "output_pred": "assert f(1) == ??"}]}
    (tmp_path / "DREval_data.jsonl").write_text(json.dumps(program) + "\n")
    (tmp_path / "DREval_tasks.jsonl").write_text(json.dumps(asked) + "\n")
    benchmark = evaluate.BENCHMARKS["reval"]
    for name, anchors in (("reval", True), ("reval-plain", False)):
        right = {"coverage": "YES", "state": "2; int", "path": "return_val = y * 2" if anchors else "return y * 2", "output": "4"}
        rows = benchmark.read(tmp_path / "DREval_data.jsonl")
        questions, _ = benchmark.questions(rows, anchors, "bare")
        assert [len(question["anchors"]) for question in questions] == [2 * anchors] * 4
        steps = "<print>y: 2</print><print>return_val: 4</print>" * anchors
        texts = {question["prompt"]: f"{steps}<answer>{right[row['ask']]}</answer>" for row, question in zip(rows, questions)}
        replay(monkeypatch, folder, texts)
        monkeypatch.setattr(policy, "fits", lambda *words: True)  # the toy's context is short
        run(monkeypatch, "--model", folder / "model", "--benchmark", "reval", "--data", tmp_path, "--prompt", "bare", "--out", tmp_path / name)
        result = json.loads((tmp_path / name / f"{name}.json").read_text())
        assert [part["value"] for part in result["tasks"].values()] == [100.0] * 5 and result["n"] == 4
        assert result["summary"]["step"]["value"] == (100.0 if anchors else None)


def test_right_answers_are_found_right(folder, tmp_path, monkeypatch):
    """Responses with the true states instead of a model's: every percentage is 100."""
    rows = [benchmarks.Crux("output").row(row) for row in ROWS]
    for task in ("output", "input"):
        texts = {example["prompt"]: example["response"] for example in augment.build(rows, task=task, prompt="bare", max_anchors=1000)}
        replay(monkeypatch, folder, texts)
        run(monkeypatch, "--model", folder / "model", "--benchmark", f"cruxeval-{task}", "--data", folder, "--prompt", "bare", "--limit", 2,
            "--max-tokens", 200, "--out", tmp_path)
        result = json.loads((tmp_path / f"cruxeval-{task}.json").read_text())
        assert [part["value"] for part in result["summary"].values()] == [100.0, 100.0, 0.0, 0.0]
        assert result["statuses"] == {"ok": 2} and result["items"][0]["anchors"] == [["return_val", "2"]]


def replay(monkeypatch, folder, texts: dict[str, str]):
    """Let policy.sample give these texts: prompt -> response."""
    _, tokenizer = policy.load(str(folder / "model"))
    ids = dict(zip(map(tuple, policy.encode_prompts(tokenizer, list(texts))), policy.encode_responses(tokenizer, list(texts.values()))))
    monkeypatch.setattr(policy, "sample", lambda model, tokenizer, prompts, n, *rest: [
        [policy.Sample(ids.get(tuple(prompt), [tokenizer.eos_token_id]), [], True)] * n for prompt in prompts])


def test_steps_of_another_input_are_held_against_that_inputs_trace(folder, tmp_path, monkeypatch):
    # (x + 1) % 3 is 0 for 5 as for 2, but by way of 6 and not of 3: the states are those of the committed 5
    code = "def f(x):\n    y = x + 1\n    return y % 3"
    (tmp_path / "one.jsonl").write_text(json.dumps({"id": "one", "code": code, "input": "2", "output": "0"}) + "\n")
    example, = augment.build([{"id": "one", "code": code, "input": "2"}], task="input", prompt="bare")
    replay(monkeypatch, folder, {example["prompt"]: example["response"].replace(">2</input>", ">5</input>").replace(">2</answer>", ">5</answer>").replace(">y: 3<", ">y: 6<")})
    run(monkeypatch, "--model", folder / "model", "--benchmark", "cruxeval-input", "--data", tmp_path / "one.jsonl", "--prompt", "bare",
        "--max-tokens", 200, "--out", tmp_path)
    one, = json.loads((tmp_path / "cruxeval-input.json").read_text())["items"]
    assert one["final"] == 1.0 and one["answer"] == "f(5)" and one["anchors"] == [["y", "6"], ["return_val", "0"]] and one["steps"] == [1.0, 1.0]


@pytest.mark.parametrize("response, steps, anchors", [
    ("<input>2</input><print>m: 3</print><print>return_val: yes</print><answer>2</answer>", [1, 1], [["m", "3"], ["return_val", "yes"]]),  # n is 3, its own trace has 2
    ("<input>'a'</input><answer>'a'</answer>", [0, 0, 0], LONG["anchors"])])  # raises: it has no trace of its own
def test_steps_beyond_the_trace_of_the_committed_input_are_left_out(monkeypatch, response, steps, anchors):
    monkeypatch.setattr(policy, "decode", lambda *_: (response, []))
    part = evaluate.Part("", None, True, Path(), None, [LONG | {"id": "x", "shown": ""}], {})
    [one] = evaluate.score_responses(None, part, [[policy.Sample([], [], True)]])
    assert one["steps"] == steps and one["anchors"] == anchors


@pytest.mark.parametrize("style", ["bare", "instruct"])
def test_without_anchors_the_question_has_none(folder, style):
    args = argparse.Namespace(data=folder / "examples.jsonl", plain=True, prompt=style, limit=None)
    for example in evaluate.read_examples(args):
        bare = augment.make_prompt(example["code"], example["call"], example["output"], example["task"], style, steps=False)
        assert example["prompt"] == bare and "print" not in bare


def test_failures_by_kind():
    cut, ended = policy.Sample([1], [], False), policy.Sample([1], [], True)
    assert evaluate.failure(None, "", None) == "prompt longer than the context"
    assert evaluate.failure(ended, " \n", None) == "empty response"
    assert evaluate.failure(ended, "<reasoning>r</reasoning>", None) == "no answer tag"
    assert evaluate.failure(cut, "<reasoning>r", None) == "cut at the length limit before an answer"
    assert evaluate.failure(cut, "<answer>1</answer>x", "1") == ""


def test_a_prompt_beyond_the_context_is_a_counted_wrong_answer(folder, tmp_path, monkeypatch, capsys):
    run(monkeypatch, "--model", folder / "model", "--data", folder / "examples.jsonl", "--max-tokens", 512, "--limit", 2, "--out", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    assert "2 of 2 prompts do not fit the model's context with --max-tokens 512" in capsys.readouterr().err
    assert result["failures"] == {"prompt longer than the context": 2} and result["summary"]["final"]["value"] == 0.0
    assert all(set(one["steps"]) == {0.0} for one in result["items"])  # and its steps count as wrong


def test_of_several_samples_a_question_too_long_weighs_as_much_as_one_that_was_asked(folder, monkeypatch):
    some = policy.read_jsonl(folder / "examples.jsonl", ())
    example = next(example for example in some if example["task"] == "output") | {"shown": ""}
    monkeypatch.setattr(policy, "decode", lambda *_: (example["response"], []))
    part = evaluate.Part("", None, True, Path(), None, [example, example | {"id": "too long"}], {})
    items = evaluate.score_responses(None, part, [[policy.Sample([], [], True)] * 4, []])
    # four perfect responses, none to the other: half of the answers and half of the steps, not 4 of 5
    assert len(items) == 8 and total(items) == {"final": 50.0, "step": 50.0, "gap": 0.0, "wrong_trace": 0.0}


def test_what_is_read_is_not_written_over(folder, tmp_path, monkeypatch, capsys):
    generations, again = tmp_path / "g.json", tmp_path / "twice.jsonl"
    generations.write_text('{"sample_0": ["1"]}')
    again.write_text((folder / "examples.jsonl").read_text() * 2)
    for words, message in ((("score", "--benchmark", "cruxeval-output", "--data", folder, "--generations", generations, "--out", generations), "would overwrite"),
                           (("--data", again, "--out", again), "two examples have the id"),
                           (("--data", folder / "examples.jsonl", "--out", folder / "examples.jsonl"), "would overwrite"),
                           (("score", "--benchmark", "cruxeval-output", "--data", tmp_path / "rows.jsonl", "--generations", "gold", "--out", tmp_path / "o"), "two rows have the id 'sample_0'")):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:1] * 2))
        before = (folder / "examples.jsonl").read_bytes()
        with pytest.raises(SystemExit) as stop:
            run(monkeypatch, *words)
        assert stop.value.code == 2 and message in capsys.readouterr().err
        assert generations.read_text() == '{"sample_0": ["1"]}' and (folder / "examples.jsonl").read_bytes() == before


def test_a_killed_run_goes_on_and_ends_the_same(folder, tmp_path, monkeypatch):
    sampler, model, prompts = loaded(folder)
    args = settings(folder, temperature=1.0, samples=2)
    monkeypatch.setattr(evaluate, "BATCH", 8)  # three batches of four prompts
    whole = evaluate.generate(sampler, model, prompts, tmp_path / "whole.partial", args)
    calls, original = [], policy.sample

    def killed_at(number):
        def sample(*words):
            calls.append(len(words[2]))
            if len(calls) == number:
                raise KeyboardInterrupt
            return original(*words)
        return sample

    monkeypatch.setattr(policy, "sample", killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        evaluate.generate(sampler, model, prompts, tmp_path / "b.partial", args)
    with (tmp_path / "b.partial").open("a") as file:
        file.write('{"key": "hal')  # the kill came in the middle of a line
    os.utime(folder / "model/config.json")  # the model was written again, as it was
    resumed = evaluate.generate(sampler, model, prompts, tmp_path / "b.partial", args)
    assert calls == [4, 4, 4, 4]  # two batches, the kill, and the third one again
    assert resumed == whole and (tmp_path / "b.partial").read_text() == (tmp_path / "whole.partial").read_text()


def test_a_run_killed_between_benchmarks_samples_nothing_twice(folder, tmp_path, monkeypatch):
    words = ["--model", folder / "model", "--benchmark", "cruxeval-output,mbpp,mbpp", "--data", folder, "--prompt", "bare", "--max-tokens", 4, "--out", tmp_path]
    original, calls = policy.sample, []

    def sample(*some):
        calls.append(len(some[2]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*some)

    monkeypatch.setattr(policy, "sample", sample)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, *words)
    assert stop.value.code == 130
    names = ["cruxeval-output-plain.json.partial", "cruxeval-output.json.partial", "mbpp.json.partial"]
    assert sorted(path.name for path in tmp_path.glob("*.partial")) == names
    run(monkeypatch, *words)
    assert calls == [3, 3, 1, 1] and not list(tmp_path.glob("*.partial"))  # with anchors, without, and mbpp's one program again


def test_what_was_sampled_under_other_settings_is_refused(folder, tmp_path, capsys):
    sampler, model, prompts = loaded(folder)
    evaluate.generate(sampler, model, prompts[:2], tmp_path / "a.partial", settings(folder))
    for other in (settings(folder, seed=1), settings(folder, max_tokens=13), settings(folder, sampler="vllm")):
        with pytest.raises(SystemExit) as stop:
            evaluate.generate(sampler, model, prompts[:2], tmp_path / "a.partial", other)
        assert stop.value.code == 2 and "other settings" in capsys.readouterr().err


def test_samples_belong_to_weights_prompts_and_settings(folder, tmp_path):
    shutil.copytree(folder / "model", tmp_path / "model")
    before = evaluate.fingerprint(settings(tmp_path), [[1]])
    assert before == evaluate.fingerprint(settings(tmp_path), [[1]])
    assert before not in (evaluate.fingerprint(settings(tmp_path), [[2]]), *(evaluate.fingerprint(settings(tmp_path, **more), [[1]]) for more in ({"temperature": 1.0}, {"samples": 2})))
    with (tmp_path / "model/config.json").open("a") as file:
        file.write(" ")
    assert before != evaluate.fingerprint(settings(tmp_path), [[1]])


def test_what_was_sampled_in_batches_of_another_size_is_refused(folder, tmp_path, monkeypatch, capsys):
    # as on a GPU, whose batches are larger: the second batch of eight prompts is not the second of four
    sampler, model, prompts = loaded(folder)
    for size in (8, 4):
        monkeypatch.setattr(evaluate, "BATCH", size)
        if size == 8:
            evaluate.generate(sampler, model, prompts, tmp_path / "a.partial", settings(folder))
    with pytest.raises(SystemExit):
        evaluate.generate(sampler, model, prompts, tmp_path / "a.partial", settings(folder))
    assert "another kind of machine" in capsys.readouterr().err


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_responses_do_not_depend_on_the_batch(folder, tmp_path, monkeypatch, temperature):
    sampler, model, prompts = loaded(folder)
    found = []
    for size in (1, 5, 256):
        monkeypatch.setattr(evaluate, "BATCH", size)
        found.append([some[0].ids for some in evaluate.generate(sampler, model, prompts, tmp_path / f"{size}.partial", settings(folder, temperature=temperature))])
    assert found[0] == found[1] == found[2] and len(set(map(tuple, found[0]))) > 1


def test_results_whose_names_differ_after_a_dot_do_not_share_samples():
    names = [evaluate.Part("", None, True, Path(name), None, [], {}).partial.name for name in ("sft-t0.2", "sft-t0.8", "a.partial")]
    assert names == ["sft-t0.2.partial", "sft-t0.8.partial", "a.partial.partial"]


def test_a_committed_input_runs_once(folder, monkeypatch):
    # the steps and what the report shows beside them come from one run
    example = next(example for example in policy.read_jsonl(folder / "examples.jsonl", ()) if example["task"] == "input")
    original, calls = rewards.sandbox.trace_inputs, []
    monkeypatch.setattr(rewards.sandbox, "trace_inputs", lambda *some: calls.append(some) or original(*some))
    monkeypatch.setattr(policy, "decode", lambda *_: (example["response"], []))
    [found] = evaluate.score_responses(None, evaluate.Part("", None, True, Path(), None, [example | {"shown": ""}], {}), [[policy.Sample([], [], True)]])
    assert len(calls) == 1 and found["final"] == 1.0 and all(found["steps"]) and found["anchors"] == example["anchors"] and found["status"] == ""
    monkeypatch.setattr(rewards.sandbox, "trace_inputs", lambda program, entry, texts: [rewards.sandbox.Trace(rewards.sandbox.Status.LOST)] * len(texts))
    [lost] = evaluate.score_responses(None, evaluate.Part("", None, True, Path(), None, [example | {"shown": ""}], {}), [[policy.Sample([], [], True)]])
    assert lost["final"] == 0.0 and lost["status"] == "lost"  # wrong, and said why


def test_a_comparison_names_the_settings_that_differ(tmp_path, monkeypatch, capsys):
    for name, temperature in (("a", "0.0"), ("b", "1.0")):
        (tmp_path / name).write_text(json.dumps({"items": ITEMS, "settings": {"temperature": temperature, "data": "d"}}))
    run(monkeypatch, "compare", tmp_path / "a", tmp_path / "b")
    assert [line for line in capsys.readouterr().out.splitlines() if "note" in line] == ["  note: temperature was 0.0 and 1.0"]


@pytest.mark.parametrize("content", ['{"items": [3]}', '{"items": [{"id": "a"}]}', '{"items": {"a": 1}}', "[1]"])
def test_no_result_is_one_line(tmp_path, monkeypatch, capsys, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "compare", tmp_path / "a.json", tmp_path / "a.json")
    assert stop.value.code == 2 and "a.json: not a result of evaluate.py" in capsys.readouterr().err


@pytest.mark.parametrize("name, row, message", [
    ("mbpp", MBPP[0] | {"task_id": 9}, "holds no rows"), ("mbpp", MBPP[0] | {"task_id": "a"}, "a row is not of the form"),
    ("mbpp", MBPP[0] | {"test_list": 3}, "a row is not of the form"), ("lcb-output", LCB[0] | {"input": 3}, "a row is not of the form"),
    (None, {"id": "a", "prompt": "p", "anchors": [], "output": "1", "task": "output"}, "line 1: no field 'code'")])
def test_rows_of_another_form_are_one_line(tmp_path, monkeypatch, capsys, name, row, message):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--model", "absent", "--data", tmp_path / "rows.jsonl", *(["--benchmark", name] if name else []))
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "rows.jsonl" in error and message in error and error.count("\n") == 1


@pytest.mark.parametrize("words, message", [
    (["--benchmark", "cruxeval"], "--benchmark cruxeval: there are"), (["--benchmark", "mbpp", "--data", "/no/such"], "/no/such: no such file"),
    (["--samples", "3"], "--samples above 1 needs"), (["--data", "README.md"], "README.md: line 1")])
def test_bad_words_are_one_line_and_exit_code_2(monkeypatch, capsys, words, message):
    monkeypatch.chdir(Path(__file__).parent.parent)
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--model", "absent", *words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.count("\n") == 1
