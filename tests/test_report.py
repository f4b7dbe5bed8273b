"""tools/report.py on small files in the formats of sft.py, bigrpo.py and evaluate.py."""

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bigrpo
import evaluate
import policy
import rewards
from tools import browse, report

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = "</script><b onclick=x>\"'&amp;</div><img src=http://x/y>\u202e\x00\ud800"


def response(steps: list[str], answer: str) -> str:
    return "".join(f"<reasoning>r</reasoning><print>{step}</print>\n" for step in steps) + f"<reasoning>r</reasoning><answer>{answer}</answer>"


def group(name: str, texts: list[str], anchors=(("a", "1"), ("b", "2"), ("return_val", "3")), task="output") -> list[bigrpo.Rollout]:
    """One scored group with credit, sampled by a tokenizer whose tokens are three characters long; the last is the end token."""
    example = {"id": name, "prompt": f"def f():\n    pass\nassert f() == ??  # {HOSTILE}", "anchors": [list(pair) for pair in anchors],
               "output": "3", "task": task, "instrumented": "def f(n):\n    print(f'n: {n}')\n    return 3", "call": "f(0)"}
    starts = [[*range(0, len(text), 3), len(text)] for text in texts]
    rollouts = [bigrpo.Rollout(example, [1], policy.Sample([1] * len(at), [0.0] * len(at), True), text, at) for text, at in zip(texts, starts)]
    bigrpo.score([rollouts])
    bigrpo.assign_credit(rollouts, bigrpo.build_parser().parse_args([]))
    return rollouts


RIGHT, LUCKY = response(["a: 1", "b: 2", "return_val: 3"], "3"), response(["a: 1", "b: 9", "return_val: 3"], "3")
WRONG, SHORT = response(["a: 1", "b: 2", f"return_val: {HOSTILE}"], "4"), "<reasoning>r</reasoning><answer>" + HOSTILE


@pytest.fixture
def run(tmp_path):
    """A folder with an SFT run, an RL run and two results."""
    for name, rows in {"sft": [{"step": s, "lr": 1.0, "loss": 5 / (s + 1)} for s in range(60)],
                       "rl": [{"step": s, "final_reward": .5, "step_reward": .6, "entropy": .1, "equal_groups": .2, "equal_columns": .3}
                              for s in range(21)]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mixed = [RIGHT, LUCKY, WRONG, SHORT]
    for step in (0, 10, 20):
        bigrpo.dump(tmp_path / "rl" / "rollouts.jsonl", step, [group("dull", [RIGHT] * 4), group(f"mixed-{step}", mixed), group("poor", [SHORT] * 4)])
    for name, wrong in {"before": {"value": None, "interval": [None, None]}, "rl": {"value": 12.34, "interval": [10.0, 15.0]}}.items():
        metric = {"value": 93.12, "interval": [91.04, 95.2]}
        summary = {"final": metric, "step": metric, "gap": {"value": -1.26, "interval": [-2.0, 0.5]}, "wrong_trace": wrong}
        settings = {"model": "runs/m", "data": "test.jsonl", "temperature": "0.0"}
        (tmp_path / f"{name}.json").write_text(json.dumps({"settings": settings, "n": 500, "summary": summary, "tokens": {"value": 88.4}}))
    return tmp_path


def launch(folder: Path, *more: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "report.py", "--sft", "sft", "--rl", "rl", "--out", "out", *more]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


class Page(HTMLParser):
    """All tags of the page, and for each response its tokens as (text, advantage in the title)."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.responses, self.title, self.in_mark = [], [], None, False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        if attributes.get("class") == "response":
            self.responses.append([])
        if tag == "i" and "title" in attributes:
            self.title = attributes["title"]
            self.responses[-1].append(["", float(self.title.rpartition(" ")[2])])
        self.in_mark = attributes.get("class") == "mark"

    def handle_endtag(self, tag):
        self.in_mark = False
        if tag == "i":
            self.title = None

    def handle_data(self, data):
        if self.title and not self.in_mark:
            self.responses[-1][-1][0] += data


def test_writes_three_files_and_prints_the_table(run):
    done = launch(run, "--results", "before.json", "rl.json", "--labels", "before SFT", "after | RL")
    assert done.returncode == 0, done.stderr
    text = (run / "out" / "report.md").read_text()
    assert text in done.stdout
    rows = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["", "final accuracy", "step accuracy", "gap", "right answer, wrong trace", "n", "temperature", "response tokens"]
    assert rows[2] == ["before SFT", "93.1 [91.0, 95.2]", "93.1 [91.0, 95.2]", "-1.3 [-2.0, 0.5]", "none", "500", "0.0", "88.4"]
    assert rows[3][0] == "after / RL" and rows[3][4] == "12.3 [10.0, 15.0]"
    assert report.METRICS == evaluate.METRICS
    assert (run / "out" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "out" / "credit.html").is_file()


def test_every_token_is_shown_with_its_advantage(run):
    page = Page(report.credit_page(report.read_groups(run / "rl"), 1))
    rows = [json.loads(line) for line in (run / "rl" / "rollouts.jsonl").read_text().splitlines()]
    expected = [row for step in (20, 0) for row in rows if row["id"] == f"mixed-{step}"]
    assert len(page.responses) == len(expected) == 8
    for tokens, row in zip(page.responses, expected):
        plain = row["response"].translate(report.CONTROL)
        assert "".join(text for text, _ in tokens) == plain
        assert [text for text, _ in tokens] == [plain[at:at + 3] for at in row["starts"]]
        assert [advantage for _, advantage in tokens] == pytest.approx(row["token_advantage"], abs=0.0051)
        assert tokens[-1][0] == ""  # the end token


def test_a_wrong_step_under_a_right_answer_is_coloured_the_other_way():
    # r = [1,1,1] three times and [1,0,1], all answers right: A_final = 0; column 2 has mean 3/4, std sqrt(3)/4, so A = -sqrt(3) at
    # the wrong step; its neighbours keep lam * A_intra > 0 (0.3 * 1.5 before it, 0.3 after it)
    row = row_of(group("g", [RIGHT, RIGHT, RIGHT, LUCKY])[3])
    page = report.response_html(row, 2.0)
    assert [part.split('"')[0] for part in page.split('<span class="')[1:] if not part.startswith("mark")] == ["plus", "minus", "plus", "minus"]
    assert [part.split('"')[0] for part in page.split('data-a="')[1:]] == ["+0.45", "-1.73", "+0.30", "+0.00"]


def test_where_the_credit_of_wrong_steps_under_right_answers_goes():
    # the wrong step of the last rollout gets -sqrt(3), as above; beside it a group in which nobody has the second step right and one
    # answer is wrong: there A_group is 0 and A_final alone, 1/sqrt(3) for three of four, pushes the three lucky rollouts' wrong step up
    groups = [[row_of(rollout) for rollout in group("g", texts)] for texts in ([RIGHT, RIGHT, RIGHT, LUCKY], [LUCKY, LUCKY, LUCKY, response(["a: 1", "b: 9", "return_val: 4"], "4")])]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in report.lucky_credit([groups]).splitlines() if line.startswith("|")]
    assert lines[2] == ["some rollout of the group has the step right", "1", "100%", "0%", "0%"]
    assert lines[3] == ["none has: A_group is 0", "3", "0%", "100%", "0%"]
    assert "| 0      | none" in report.lucky_credit([[groups[0][:1]]])  # no wrong step at all


def row_of(rollout: bigrpo.Rollout, **changes) -> dict:
    return {"id": "g", "rollout": 0, "prompt": "p", "response": rollout.text, "starts": rollout.starts, "ended": True, "mask": rollout.mask,
            "token_advantage": rollout.advantage.tolist(), "true": rollout.example["anchors"], "final_reward": rollout.final,
            "predicted": [block.text for block in rewards.parse(rollout.text).blocks], "step_rewards": rollout.step_rewards,
            "step_advantage": rollout.step_advantage, "final_advantage": rollout.final_advantage} | changes


def test_a_character_of_several_tokens_and_a_cut_response():
    row = row_of(group("g", [RIGHT, WRONG])[0], response="ab\u20ac", starts=[0, 2, 2, 2], token_advantage=[1.0] * 4, ended=False)
    page = report.response_html(row, 1.0)
    assert page.count("<i ") == 4 and page.count("&middot;") == 2 and "\u20ac" in page and "end token" not in page
    assert "cut at the length limit" in report.heading(row)


def test_missing_and_masked_anchors_are_named():
    short, masked = (row_of(group("g", [SHORT, RIGHT])[0], mask=mask) for mask in ([True] * 3, [True, True, False]))
    assert report.table_row(short).count("missing") == 4  # three anchors and the answer, whose tag is never closed
    assert report.table_row(masked).count("has no such anchor") == 1


def test_hostile_text_cannot_break_the_page(run):
    assert launch(run).returncode == 0
    text = (run / "out" / "credit.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.tags) and "onclick=x>" not in text
    assert page.tags.count("b") == report.INTRO.count("<b>")
    assert "url(" not in text and "@import" not in text and not {"\u202e", "\x00"} & set(text)
    assert "&#x21B5;</span>\n    pass" in text  # a newline of the prompt, visible


def test_choice_takes_first_and_last_step_and_the_telling_group_first(run):
    dumped = report.read_groups(run / "rl")
    assert [[len(group) for group in groups] for groups in dumped] == [[4, 4, 4], [4, 4, 4]]
    assert [groups[0][0]["step"] for groups in dumped] == [0, 20]
    assert [group[0]["id"] for group in sorted(dumped[1], key=report.interest)] == ["mixed-20", "dull", "poor"]
    assert report.credit_page(dumped, 6) == report.credit_page(report.read_groups(run / "rl"), 6)


def test_the_picture_shows_a_group_that_fits_it(run, tmp_path):
    """Two rollouts, both answers right, so A_final is 0. A_group is 0, -1 (b: mean and std 1/2) and 0, A_intra of the lucky one
    1 + (0 + 1) / 2, 0 and 1, of which 0.3 counts. Three states in each; the groups of the other tests have a prompt that cannot be drawn."""
    assert not report.draw_credit(report.read_groups(run / "rl"), tmp_path / "none.png") and not (tmp_path / "none.png").exists()
    bigrpo.dump(tmp_path / "rollouts.jsonl", 0, [group("two", [RIGHT, LUCKY])])
    [[[right, lucky]]] = report.read_groups(tmp_path)
    right["prompt"] = "def f():\n    return '$x^{$'\nassert f() == ??"  # no formula
    assert [cell[:3] for cell in report.cells_of(lucky)] == [("r", "a: 1", True), ("r", "b: 9", False), ("r", "return_val: 3", True), ("answer", "3", True)]
    assert [round(advantage, 3) for *_, advantage in report.cells_of(lucky)] == [0.45, -1.0, 0.3, 0.0]
    assert report.draw_credit([[[right, lucky]]], tmp_path / "credit.png") and (tmp_path / "credit.png").stat().st_size > 10_000


def test_a_part_without_its_file_is_left_out(run):
    (run / "sft" / "metrics.jsonl").unlink()
    (run / "rl" / "rollouts.jsonl").unlink()
    done = launch(run)
    assert done.returncode == 0 and "credit.html left out" in done.stderr
    assert "credit.html" not in done.stdout and (run / "out" / "curves.png").is_file() and not (run / "out" / "credit.html").exists()


@pytest.mark.parametrize("file, text, place", [
    ("rl/rollouts.jsonl", "{\"step\": 0\n", "rl/rollouts.jsonl:1: not JSON"),
    ("rl/rollouts.jsonl", "[]\n", "rl/rollouts.jsonl:1: field 'step'"),
    ("rl/rollouts.jsonl", "LENGTHS", "rl/rollouts.jsonl:2: the lists"),
    ("rl/metrics.jsonl", "{\"step\": 1}\n", "rl/metrics.jsonl:1: field 'final_reward'"),
    ("sft/metrics.jsonl", "{\"step\": 1, \"loss\": 2}\n\xff\n", "sft/metrics.jsonl:2: not JSON"),
    ("sft/metrics.jsonl", "{\"step\": 1, \"loss\": \"x\"}\n", "sft/metrics.jsonl:1: field 'loss'"),
    ("rl.json", "[" * 100_000, "rl.json: not JSON"),
    ("rl.json", "{\"n\": 5}", "rl.json: field"),
    ("rl.json", None, "rl.json: No such file"),
])
def test_bad_input_is_one_line_and_exit_code_2(run, monkeypatch, capsys, file, text, place):
    if text is None:
        (run / file).unlink()
    elif text == "LENGTHS":
        lines = (run / file).read_text().splitlines()
        (run / file).write_text(lines[0] + "\n" + json.dumps(json.loads(lines[1]) | {"starts": [0]}) + "\n")
    else:
        (run / file).write_text(text, encoding="latin-1")
    monkeypatch.chdir(run)
    monkeypatch.setattr(sys, "argv", ["report.py", "--sft", "sft", "--rl", "rl", "--results", "rl.json", "--out", "out"])
    with pytest.raises(SystemExit) as stop:
        report.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith(f"error: {place}")


# ---------------------------------------------------------------------------------------------------------------------
# Results on benchmarks, figures, and the page of examples


def items() -> list[dict]:
    """Four responses: right on a wrong trace, right, wrong with text that would break a page, and none."""
    base = {"status": "ok", "failure": "", "tokens": 7, "program": "def f(x):\n    print(f'a: {x}')\n    return x < 1", "call": "f(1)", "output": "1",
            "task": "output", "anchors": [["a", "1"], ["return_val", "<2>"]], "response": HOSTILE}
    return [base | {"id": "right", "final": 1.0, "steps": [1.0, 1.0], "predicted": ["a: 1", "return_val: <2>"], "answer": "1"},
            base | {"id": "Lucky", "final": 1.0, "steps": [1.0, 0.0], "predicted": ["a: 1", "b: 7", "c: 8"], "answer": "1"},
            base | {"id": HOSTILE, "final": 0.0, "steps": [0.0, 0.0], "predicted": [HOSTILE], "answer": HOSTILE, "program": HOSTILE, "call": HOSTILE},
            base | {"id": "none", "final": 0.0, "steps": [0.0, 0.0], "predicted": [], "answer": None, "failure": "empty response", "status": "", "task": "input"}]


def result_file(path: Path, benchmark: str, anchors: bool, **more) -> Path:
    found = {"settings": {"model": "runs/m", "data": benchmark, "temperature": "0.0"}, "benchmark": benchmark, "anchors": anchors, "n": 4,
             "summary": evaluate.summarize(items(), 0), "items": items(), **evaluate.breakdown(items(), 0), **more}
    path.write_text(json.dumps(found))
    return path


def table_of(text: str, head: str) -> list[list[str]]:
    """The rows of the Markdown table whose first column head is followed by `head`."""
    lines = text[text.index(f"| {head} "):].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:next(i for i, line in enumerate(lines + [""]) if not line.startswith("|"))]]


def test_our_rows_stand_beside_the_papers(tmp_path, monkeypatch, capsys):
    tasks = {name: {"value": 50.0, "interval": [40.0, 60.0], "n": 9} for name in ("coverage", "state", "path", "output", "incremental consistency")}
    files = [result_file(tmp_path / "o.json", "cruxeval-output", True), result_file(tmp_path / "i.json", "cruxeval-input", True),
             result_file(tmp_path / "p.json", "cruxeval-output", False), result_file(tmp_path / "r.json", "reval", True, tasks=tasks)]
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", *map(str, files), "--html", "--out", str(tmp_path / "out")])
    report.main()
    text = (tmp_path / "out" / "report.md").read_text()
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["", "CRUXEval-O", "CRUXEval-I", "REval coverage", "REval state", "REval path", "REval output", "REval consistency"] in lines
    assert ["paper: full", "91.6", "90.5", "94.4", "82.3", "63.1", "91.8", ""] in lines and ["paper: SFT", "77.0", "75.0", "74.2", "58.2", "42.1", "70.3", ""] in lines
    ours = next(line for line in lines if line[0] == "runs/m, with anchors")
    assert ours[1].startswith("50.0 [") and ours[4] == "50.0 [40.0, 60.0]"
    assert ["runs/m, with anchors", "50.0", ""] in lines and ["paper: with anchors", "91.1", "86.5"] in lines
    assert ["paper: CodeReasoner-7B", "63.5", "85.6"] in lines
    for name in ("faithfulness", "positions", "anchors"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG") and f"({name}.png)" in text
    numbers = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    assert [one["label"] for one in numbers] == ["o", "i", "p", "r"] and "items" not in numbers[0] and numbers[3]["tasks"] == tasks


def test_two_results_of_one_condition_are_not_one(tmp_path, monkeypatch, capsys):
    files = [result_file(tmp_path / name, "cruxeval-output", True) for name in ("a.json", "b.json")]
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", *map(str, files), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        report.main()
    assert "two results of runs/m with anchors on cruxeval-output" in capsys.readouterr().err


def test_the_papers_columns_are_those_of_the_method():
    # the full method's row and its averages over output and input: (91.6 + 90.5) / 2 and (88.4 + 84.5) / 2
    full = dict(zip(report.COLUMNS, report.PAPER["full"]))
    assert full["humaneval"] == 90.1 and full["mbpp"] == 85.0 and full["output"] == 91.8
    assert [round((full[f"{name}-output"] + full[f"{name}-input"]) / 2, 2) for name in ("cruxeval", "lcb")] == [91.05, 86.45]


def test_no_arguments_are_no_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--html"]):
        monkeypatch.setattr(sys, "argv", ["report.py", *words])
        with pytest.raises(SystemExit) as stop:
            report.main()
        assert stop.value.code == 2 and "give --results, --sft or --rl" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_equal_labels_are_seeds(tmp_path):
    results = [{"settings": {"model": "m", "data": "d", "temperature": "0.0"}, "n": 9, "tokens": {"value": 1.0},
                "summary": {name: {"value": value, "interval": [1.0, 2.0]} for name in report.METRICS}} for value in (50.0, 60.0, 10.0)]
    text = report.results_table(results, [Path("x")] * 3, ["a", "a", "b"])
    assert "a: mean of 2" in text and "55.0 (sd 7.1)" in text and "b: mean" not in text  # sd of 50 and 60: sqrt(2) * 5


def test_results_of_one_name_are_told_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    paths = [Path(run, "eval/test.json") for run in ("one", "two")]
    for path in paths:
        path.parent.mkdir(parents=True)
        result_file(path, "toy", True)
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", *map(str, paths), "--out", "out"])
    report.main()
    text = (tmp_path / "out/report.md").read_text()
    assert "| one/eval/test " in text and "| two/eval/test " in text and "mean of" not in text  # two models are no seeds of one


def test_what_was_not_judged_is_not_wrong():
    unjudged = items()[0] | {"final": None, "status": "missing"}
    assert browse.kind(unjudged) == "none" and "answer not judged" in browse.example(unjudged, 0)


def test_an_answer_without_a_trace_is_no_right_trace_and_a_step_that_nobody_judged_is_not_wrong():
    bare = items()[0] | {"id": "bare", "steps": [], "anchors": [], "predicted": []}
    assert browse.kind(bare) == "bare" and "1 of 2 right answers on a wrong trace" in browse.page([{"items": [bare, *items()]}], ["r"], 9)
    own = browse.table(items()[0] | {"task": "input", "predicted": ["a: 1", "return_val: <2>", "c: 3"]})  # the run on its own input has three anchors, the example two
    assert own.count('title="not judged"') == 1 and "off" not in own and ">c: 3<" in own


def test_the_page_of_examples():
    text = browse.page([{"items": items()}], ["one | result"], 4)
    assert text.count("<details class=\"one ") == 4 and [text.count(f'data-kind="{name}" data-result="0"') for name in browse.KINDS] == [1, 1, 0, 1, 1, 0]
    assert text.index("Lucky") < text.index(">right<")  # what is worth a look comes first
    assert "4 responses, 1 of 2 right answers on a wrong trace" in text
    lucky = text[text.index(">Lucky<"):text.index(">right<")]
    assert lucky.count('class=" off"') == 2 and ">b: 7<" in lucky and "(no anchor)" in lucky and ">c: 8<" in lucky  # wrong name, and one block too many
    assert "<mark>print(f&#x27;a: {x}&#x27;)</mark>" in text and "&lt;2&gt;" in text and text.count("missing</span>") == 4
    assert "assert f(??) == 1" in text and "empty response" in text
    counted = {"program": "if step <= 2: print(f's: {s}')\nx = \"print(f'\"", "call": ""}  # an anchor in a loop, and none
    assert "if step &lt;= 2: <mark>print(" in browse.program(counted) and browse.program(counted).count("<mark>") == 1
    assert "the 2 most telling are shown" in browse.page([{"items": items()}], ["r"], 2)


def test_hostile_text_cannot_break_the_page_of_examples():
    text = browse.page([{"items": items()}, {"items": items()}], [HOSTILE, "b"], 9)
    page = Page(text.replace('class="response"', ""))
    assert page.tags.count("script") == 1 and not {"img", "link", "iframe", "b"} & set(page.tags) and "onclick=x>" not in text
    assert "http" not in text.replace(browse.plain(HOSTILE), "").replace(browse.plain(HOSTILE.lower()), "") and not {"\u202e", "\x00"} & set(text)


def test_help_needs_no_matplotlib():
    code = "import sys; sys.path.insert(0, 'tools'); import report; report.build_parser(); assert not {'matplotlib', 'torch', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
