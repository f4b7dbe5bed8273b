"""tools/ablation.py: what its variants do to the credit, worked by hand; its intervals; and that it goes on where it was."""

import argparse
import json
import sys
from pathlib import Path

import pytest

import bigrpo
import evaluate
import policy
from tools import ablation

ARGS = argparse.Namespace(norm="none", advantage="bilevel", lam=0.0, center_intra=False)


def group(*rows, task="output", inputs=None):
    """Rollouts of (states written, step rewards, answer's reward); the text of a state is one letter."""
    found = []
    for place, (states, step_rewards, final) in enumerate(rows):
        text = f"<input>{inputs[place]}</input>" if inputs else ""
        text += "".join(f"<print>{state}</print>" for state in states) + "<answer>0</answer>"
        found.append(bigrpo.Rollout({"task": task}, [], policy.Sample(list(range(len(text))), [], True), text, list(range(len(text))), list(step_rewards),
                                    [True] * len(step_rewards), final))
    return found


def credit(name, rollouts, **changes):
    """The step advantages of a variant, [G, n]."""
    ablation.VARIANTS[name](bigrpo.assign_credit, rollouts, argparse.Namespace(**vars(ARGS) | changes))
    return [[round(a, 3) for a in rollout.step_advantage] for rollout in rollouts]


def test_equal_state_compares_only_what_agrees_so_far():
    # the second step: two rollouts come from state a (1 and 0: mean 1/2), two from x (1 and 1: no spread); in the plain form the mean is 3/4
    rollouts = group(("ab", [1, 1], 1), ("ac", [1, 0], 0), ("xb", [0, 1], 1), ("xb", [0, 1], 1))
    assert credit("equal-state", rollouts) == [[0.5, 0.5], [0.5, -0.5], [-0.5, 0.0], [-0.5, 0.0]]
    assert credit("equal-state", rollouts[:3]) == [[0.333, 0.5], [0.333, -0.5], [-0.667, 0.0]]  # a rollout alone has nobody to be compared with
    assert credit("equal-state", rollouts[:2], lam=1.0) == [[0.0 + 2.0, 0.5 + 1.0], [0.0 + 1.0, -0.5 + 0.0]]  # and Eq. 11 on top
    other = group(("ab", [1, 1], 1), ("ab", [0, 0], 0), task="input", inputs=["1", "9"])  # the same states on another input are others
    assert credit("equal-state", other) == [[0.0, 0.0], [0.0, 0.0]]


def test_first_error_masks_what_comes_after_it():
    rollouts = group(("ab", [1, 1], 1), ("ac", [1, 0], 0), ("xb", [0, 1], 1))
    assert credit("first-error", rollouts) == [[0.333, 0.5], [0.333, -0.5], [-0.667, 0.0]]  # the third's second step counts nowhere
    assert [rollout.mask for rollout in rollouts] == [[True, True]] * 3  # what is logged stays


def test_right_only_takes_the_steps_of_wrong_answers_for_wrong():
    rollouts = group(("ab", [1, 1], 1), ("ab", [1, 1], 0))
    assert credit("right-only", rollouts) == [[0.5, 0.5], [-0.5, -0.5]]
    assert [rollout.step_rewards for rollout in rollouts] == [[1, 1], [1, 1]]


def test_no_return_leaves_the_last_anchor_without_step_credit():
    rows = ("ab", [1, 1], 1), ("xy", [0, 0], 0)
    assert credit("no-return", group(*rows), lam=1.0) == [[1.5, 0.0], [-0.5, 0.0]]
    assert credit("no-return", group(*rows, task="input"), lam=1.0) == [[2.5, 1.5], [-0.5, -0.5]]  # whose answer repeats the input, not the return


def test_length_free_gives_every_step_the_same_sum():
    # four blocks of 16, 22, 16 and 16 characters, each a token here: 70 / 4 is the usual one
    rollouts = group((["a", "bcdefgh"], [1, 1], 1), ("xy", [0, 0], 0))
    ablation.length_free(bigrpo.assign_credit, rollouts, ARGS)
    for rollout, step in zip(rollouts, (0.5, -0.5)):
        split = rollout.text.index("</print>") + len("</print>")
        end = rollout.text.index("<answer>")
        steps = rollout.advantage - rollout.final_advantage
        assert steps[:split].sum().item() == pytest.approx(step * 17.5) and steps[split:end].sum().item() == pytest.approx(step * 17.5)
        assert not steps[end:].any()


def test_a_variant_lives_in_one_run_only(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(bigrpo, "main", lambda: bigrpo.assign_credit(group(("ab", [1, 1], 1), ("ab", [1, 1], 0)), ARGS) or seen.append(sys.argv[1:])
                        or seen.append(bigrpo.build_parser().parse_args([]).variant))
    monkeypatch.setattr(sys, "argv", ["ablation.py"])
    before = bigrpo.assign_credit
    ablation.train_variant("right-only", ["--steps", "3"])
    assert bigrpo.assign_credit is before and seen == [["--steps", "3"], "right-only"] and not hasattr(bigrpo.build_parser().parse_args([]), "variant")


def result(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"items": [{"id": f"{i}-{task}", "task": task, "final": final, "steps": steps} for i, (task, final, steps) in enumerate(rows)]}))
    return path


def test_paired_differences_are_means_over_seeds(tmp_path):
    # seed 0: output 1 of 2 -> 2 of 2 (+50), input 0 of 1 -> 0 of 1; steps 3 of 4 -> 4 of 4. Seed 1: nothing changes.
    rows = [("output", 1, [1, 1]), ("output", 0, [1, 0]), ("input", 0, [])]
    better = [("output", 1, [1, 1]), ("output", 1, [1, 1]), ("input", 0, [])]
    files = {(name, seed): result(tmp_path / name / f"{seed}.json", better if (name, seed) == ("b", 0) else rows) for name in "ab" for seed in (0, 1)}
    found = ablation.paired([files["a", 0], files["a", 1]], [files["b", 0], files["b", 1]], draws=400)
    assert found["final_output"][0] == [50, 0] and found["final_input"] == ([0, 0], 0, 0) and found["step"][0] == found["step_output"][0] == [25, 0]
    low, high = found["final_output"][1:]
    assert low == 0 and 25 < high <= 100
    other = result(files["b", 0], rows + better)
    with pytest.raises(SystemExit):
        ablation.paired([files["a", 0]], [files["b", 0]])


def test_the_interval_is_students():
    assert ablation.interval([1.0, 3.0]) == "2.0 ± 12.7" and ablation.interval([5.0]) == "5.0" and ablation.interval([None]) == "none"
    assert ablation.interval([1.0, None, 3.0], "+") == "+2.0 ± 12.7 (of 2)"
    assert ablation.interval(list(range(11))) == "5.0 ± 2.2" and ablation.change([1.0, 1.0], 0.5, 2) == "+1.0 ± 0.0 [+0.5, +2.0]"


def test_p_values_are_students_and_holm_counts_them():
    # with one degree of freedom t is Cauchy's: beyond 1 lies half; with two, p = 1 - t / sqrt(2 + t * t), so 1 - 2 / sqrt(6) for t = 2
    assert ablation.p_value([0.0, 2.0]) == pytest.approx(0.5, abs=1e-3) and ablation.p_value([1.0, 1.0]) == ablation.p_value([-1.0, -1.0]) == pytest.approx(0, abs=1e-9)
    assert ablation.p_value([1.0, 2.0, 3.0]) == pytest.approx(1 - (12 / 14) ** 0.5, abs=1e-3)  # mean 2, spread 1: t = 2 sqrt(3)
    assert ablation.p_value([-1.0, 0.0, 1.0]) == pytest.approx(1) and ablation.p_value([-1.0, -2.0, -3.0]) == pytest.approx(ablation.p_value([1.0, 2.0, 3.0]))
    # 0.05 / 3, / 2, / 1: the smallest falls, 0.03 is above 0.025 and holds, and so does all after it
    assert ablation.holm([0.04, 0.01, 0.03]) == [False, True, False] and ablation.holm([0.02, 0.01, 0.04]) == [True] * 3 and ablation.holm([]) == []


def test_jobs_wait_for_what_they_need_and_are_done_once(tmp_path):
    def job(name, *needs, code="open({!r}, 'x')"):  # a second time that would fail
        return ablation.Job(name, ((tmp_path / name, [sys.executable, "-c", code.format(str(tmp_path / name))]),), tuple(tmp_path / need for need in needs))

    jobs = [job("c", "b"), job("a"), job("b", "a")]
    for _ in range(2):
        assert ablation.run_all(jobs, 2, tmp_path) == [] and all((tmp_path / name).exists() for name in "abc")
    begun = ablation.Job("f", job("a").commands + job("f").commands)
    assert ablation.run_all([begun], 1, tmp_path) == [] and (tmp_path / "f").exists()
    with pytest.raises(SystemExit):  # what another command made is not taken for this one's
        ablation.run_all([job("a", code="open({!r}, 'w')")], 1, tmp_path)
    made, out = ablation.stamp(tmp_path / "a"), tmp_path / "runs"  # a stamp names no folder of the runs: they may move, or have another name
    made.write_text(f"x.py --out {out}/seed-0/sft")
    inside = ablation.ROOT / "runs"
    assert ablation.shown(f"{ablation.ROOT}/x.py --out {inside}/seed-0", inside) == ablation.shown(f"{ablation.ROOT}/x.py --out runs/seed-0", Path("runs")) == "x.py --out seed-0"
    for name in (out, Path("other")):
        assert ablation.shown(f"x.py --out {name}/seed-0/sft", name) == ablation.shown(made.read_text(), out) == "x.py --out seed-0/sft"
    failed = ablation.run_all([job("e", "d"), job("d", code="import sys; sys.exit(3)")], 1, tmp_path)
    assert failed == [f"d: exit code 3, see {tmp_path / 'logs' / 'd.log'}", "e: not begun, what it needs is missing"]


def test_arms_of_a_seed_share_what_is_the_same(tmp_path):
    jobs = ablation.jobs_of(3, ["sft", "terminal", "bilevel", "coupled"], tmp_path)
    names = [job.name for job in jobs]
    assert len(names) == len(set(names)) and sum(": sft_" in name for name in names) == 2  # the coupled arm has its own
    by_name = {job.name: job for job in jobs}
    assert by_name["seed 3: terminal"].needs == by_name["seed 3: bilevel"].needs != by_name["seed 3: coupled"].needs
    commands = [" ".join(map(str, command)) for job in jobs for _, command in job.commands]
    assert sum("--advantage terminal" in command for command in commands) == 1 and all("--seed" in command for command in commands)
    assert all(Path(command.split()[1]).exists() for command in commands)


def test_unknown_arms_are_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--arms", "core", "typo"])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "'typo' is no arm" in capsys.readouterr().err


def test_the_report_of_what_is_done(tmp_path, monkeypatch, capsys):
    # an arm without RL, one with, of one seed; a third is not done
    for name, trained, key in (("sft", "sft_3", {"loss": 1.0}), ("bilevel", "bilevel", dict.fromkeys(ablation.TRAINING, 0.5))):
        for test in ablation.TESTS:
            path = result(tmp_path / f"runs/seed-0/results/{name}/{test}.json", [("output", int(name == "bilevel"), [1, 0]), ("input", 0, [0])])
            items = json.loads(path.read_text())["items"]
            path.write_text(json.dumps({"items": items, "summary": evaluate.summarize(items, 0), "tokens": {"value": 7.0}}))
        (tmp_path / f"runs/seed-0/{trained}").mkdir()
        (tmp_path / f"runs/seed-0/{trained}/metrics.jsonl").write_text("".join(json.dumps({name: value + k for name, value in key.items()} | {"timing": {"step_s": 3.0}}) + "\n" for k in range(20)))
    (tmp_path / "runs/seed-old").mkdir()
    monkeypatch.setattr(sys, "argv", ["ablation.py", "--arms", "lam", "--out", "x"])
    ablation.note_command(tmp_path / "runs")
    ablation.report(tmp_path / "runs", tmp_path / "results")
    text = (tmp_path / "results/report.md").read_text()
    assert text.startswith("`python tools/ablation.py --arms lam`, commit ") and (tmp_path / "results/curves.png").exists()
    assert "| SFT only | 1 | 0.0 | 0.0 | 33.3 | 50.0 | -33.3 | none | 7.0 | 0.0 | 33.3 | 0.0 | 33.3 | 0.0 | 1.0 |" in text
    line = next(line for line in text.splitlines() if line.startswith("| SFT + bi-level (lam = 0.3) minus SFT only | 1 |")).split(" | ")
    assert line[2:4] == ["+100.0 [+100.0, +100.0]", "+0.0 [+0.0, +0.0]"] and line[5] == "+0.0 [+0.0, +0.0]" and "terminal" not in text
    assert all(line[k].startswith("+50.0 [") for k in (4, 9, 11))  # both tasks, greedy, sampled and longer: one of two right instead of none
    assert "minus without: SFT only: +0.0; SFT + bi-level (lam = 0.3): +0.0." in text  # (100 + 0) / 2 with, 50 without
    assert "| SFT + bi-level (lam = 0.3) | 1 | 5.000 to 10.000 |" in text  # 0.5 + k: the mean of k = 0 .. 9, and of all 20
    rows = [json.loads(line) for line in (tmp_path / "results/runs.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["final_output"], row["wrong_trace"]) for row in rows] == [("sft", 0.0, None), ("bilevel", 100.0, 100.0)]
