"""evaluate.py: the percentages by hand, the interval, and CRUXEval's official rule with its quirks."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import evaluate

ITEMS = [{"id": "a", "final": 1.0, "steps": [1.0, 1.0]}, {"id": "b", "final": 1.0, "steps": [1.0, 0.0]},
         {"id": "c", "final": 0.0, "steps": [0.0, 0.0, 1.0]}, {"id": "d", "final": 0.0, "steps": [1.0]}]


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, words)])
    evaluate.main()


def test_percentages_by_hand():
    # final: 2 of 4. step: 2 + 1 + 1 + 1 = 5 of 2 + 2 + 3 + 1 = 8 anchors. Of the two right answers one has a wrong anchor.
    value = evaluate.percentages(*evaluate.columns(ITEMS))
    assert value == {"final": 50.0, "step": 62.5, "gap": -12.5, "wrong_trace": 50.0}


def test_without_a_right_answer_there_is_no_share_of_wrong_traces():
    summary = evaluate.summarize([ITEMS[2], ITEMS[3]], seed=0)
    assert summary["wrong_trace"] == {"value": None, "interval": [None, None]}
    assert summary["final"]["value"] == 0.0


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        items = [{"final": float(x), "steps": [float(x)]} for x in rng.random(60) < 0.6]
        low, high = evaluate.summarize(items, seed=trial)["final"]["interval"]
        hits += low <= 60 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_compare_pairs_by_id(tmp_path, monkeypatch, capsys):
    better = [dict(item, final=1.0) for item in reversed(ITEMS)]  # another order: the same examples
    for name, items in (("a", ITEMS), ("b", better)):
        (tmp_path / name).write_text(json.dumps({"items": items}))
    run(monkeypatch, "compare", tmp_path / "a", tmp_path / "b")
    assert "final accuracy            +50.0" in capsys.readouterr().out
    (tmp_path / "b").write_text(json.dumps({"items": better[1:]}))
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "compare", tmp_path / "a", tmp_path / "b")
    assert stop.value.code == 2 and "not about the same examples" in capsys.readouterr().err


def test_pass_at_k():
    assert evaluate.pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert evaluate.pass_at_k(5, 1, 5) == 1.0
    assert evaluate.pass_at_k(6, 2, 5) == 1.0  # C(4, 5) = 0: five of six samples with two right always hold one
    assert evaluate.pass_at_k(10, 2, 5) == pytest.approx(1 - 56 / 252)  # C(8,5) / C(10,5)


ROWS = [{"id": "sample_0", "code": "def f(x):\n    return x + 1", "input": "1", "output": "2"},
        {"id": "sample_1", "code": "def f(s):\n    return s * 2", "input": "'ab'", "output": "'abab'"}]


def official(tmp_path, monkeypatch, benchmark, generations):
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, ROWS)))  # no final newline, as in the published file
    (tmp_path / "generations.json").write_text(json.dumps(generations))
    run(monkeypatch, "score", "--benchmark", benchmark, "--data", tmp_path / "data.jsonl",
        "--generations", tmp_path / "generations.json", "--out", tmp_path / "out.json")
    return json.loads((tmp_path / "out.json").read_text())


def test_output_prediction_by_the_official_rule(tmp_path, monkeypatch):
    # 2.0 == 2 passes the official assert; f(1), the call itself, is wrong unseen; what does not parse or raises is wrong.
    scores = official(tmp_path, monkeypatch, "cruxeval-output", {
        "sample_0": ["2", "2.0", "f(1)", "3", "2 +", "f( 1)"], "sample_1": ["'abab'", '"ab" * 2', "abab", "", "1/0", "'ab'"]})
    assert scores["raw_scored_generations"] == {"sample_0": [True, True, False, False, False, True],
                                                "sample_1": [True, True, False, False, False, False]}
    assert scores["pass_at_1"] == pytest.approx(100 * (3 / 6 + 2 / 6) / 2)
    assert scores["pass_at_5"] == pytest.approx(100.0)  # of six samples at most four are wrong: any five hold a right one


def test_input_prediction_by_the_official_rule(tmp_path, monkeypatch):
    # another input with the right output passes; an argument list without the call is wrong unseen.
    scores = official(tmp_path, monkeypatch, "cruxeval-input", {"sample_0": ["f(1)", "1"], "sample_1": ["f('ab')", "f('ab') + ''"]})
    assert scores["raw_scored_generations"] == {"sample_0": [True, False], "sample_1": [True, True]}
    assert scores["pass_at_1"] == 75.0 and scores["pass_at_5"] is None  # two samples are too few for pass@5


@pytest.mark.parametrize("generations, message", [
    ({"sample_7": ["1"]}, "'sample_7' is not a problem"), ({"sample_0": "1"}, "not a non-empty list"), ([], "expected an object"),
    ({"sample_0": [1]}, "not a non-empty list")])
def test_a_bad_generations_file_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, generations, message):
    with pytest.raises(SystemExit) as stop:
        official(tmp_path, monkeypatch, "cruxeval-output", generations)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and message in error and error.startswith("error: ") and error.count("\n") == 1


def test_the_reference_answers_of_cruxeval_score_100(tmp_path, monkeypatch):
    data = Path(os.environ.get("STEPCODE_DATA", "data")) / "cruxeval.jsonl"
    if not data.is_file():
        pytest.skip(f"{data} is absent (set STEPCODE_DATA to the folder that holds it)")
    rows = [json.loads(line) for line in data.read_text().splitlines()][:60]
    (tmp_path / "generations.json").write_text(json.dumps({row["id"]: [row["output"], "None"] for row in rows}))
    run(monkeypatch, "score", "--benchmark", "cruxeval-output", "--data", data, "--generations", tmp_path / "generations.json",
        "--out", tmp_path / "out.json")
    verdicts = json.loads((tmp_path / "out.json").read_text())["raw_scored_generations"]
    assert all(right for right, _ in verdicts.values())
    assert sum(wrong for _, wrong in verdicts.values()) == sum(row["output"] == "None" for row in rows)
