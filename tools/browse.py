"""One self-contained page on which a person browses the responses of evaluate.py's result files; report.py --html writes it.

Each example: the program and its question, and side by side what the interpreter found and what the model said at each anchor and as
the answer, wrong ones marked. Buttons filter by how it went; the one to look at is "right answer, wrong trace". No network, no library.
"""

from collections import Counter
from html import escape

KINDS = {"lucky": "right answer, wrong trace", "right": "right answer, right trace", "bare": "right answer, no trace asked", "wrong": "wrong answer", "none": "no answer, or not judged", "all": "all"}
CONTROL = {code: chr(0x2400 + code) for code in range(32) if code not in (9, 10)} | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], "\uFFFD")
STYLE = """
:root { color-scheme: light dark; --back: #fff; --text: #1b1f24; --dim: #59626d; --line: #d5dae0; --panel: #f5f7f9; --bad: #b3261e; --badback: #fdecea; --good: #1c6e3a; --mark: #fff3c9 }
@media (prefers-color-scheme: dark) { :root { --back: #15181c; --text: #e9ecef; --dim: #a3adb8; --line: #3a424b; --panel: #1e2328; --bad: #ff8a80; --badback: #3d1f1d; --good: #7fd29a; --mark: #3d3715 } }
* { box-sizing: border-box } body { background: var(--back); color: var(--text); font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 0 auto; padding: 0 1rem 3rem }
h1 { font-size: 1.5rem; line-height: 1.2; margin: 1.5rem 0 .5rem } .dim { color: var(--dim) } p { margin: .3rem 0 }
nav { position: sticky; top: 0; background: var(--back); border-bottom: 1px solid var(--line); padding: .6rem 0; margin-top: .8rem; display: flex; flex-wrap: wrap; gap: .4rem; align-items: center; z-index: 1 }
button, select, input { font: inherit; font-size: .9rem; color: inherit; background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .25rem .6rem }
button { cursor: pointer } button[aria-pressed=true] { border-color: var(--text); box-shadow: inset 0 0 0 1px var(--text); font-weight: 600 } input { flex: 1 1 9rem; max-width: 16rem; min-width: 0 }
details.one { border-bottom: 1px solid var(--line); padding: .5rem 0 } summary { cursor: pointer } .one > summary { display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: baseline }
.one > summary::before { content: "\\25B8"; color: var(--dim) } .one[open] > summary::before { content: "\\25BE" } .id { font-weight: 600; overflow-wrap: anywhere }
.good { color: var(--good) } .bad { color: var(--bad) } .tag { font-size: .85rem } .lucky > summary .tag { border: 1px solid var(--bad); border-radius: 4px; padding: 0 .4rem; color: var(--bad) }
.sides { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 1rem; margin: .6rem 0; align-items: start } @media (max-width: 50rem) { .sides { grid-template-columns: minmax(0, 1fr) } }
pre, code, .state { font-family: ui-monospace, monospace; font-size: .875rem; unicode-bidi: isolate } pre { background: var(--panel); border-radius: 6px; padding: .75rem; margin: 0; overflow: auto; max-height: 36rem; white-space: pre; tab-size: 4 }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; margin-top: .4rem } pre mark { background: var(--mark); color: inherit; border-radius: 2px } .ask { font-weight: 600 }
table { border-collapse: collapse; width: 100%; table-layout: fixed } th, td { border: 1px solid var(--line); padding: .3rem .5rem; text-align: left; vertical-align: top } th { background: var(--panel); font-weight: 600; font-size: .9rem }
.name { width: 24% } .sign { width: 2.4rem; text-align: center } .state { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 9rem; overflow: auto } tr.off td { background: var(--badback) } .answer td { border-top: 2px solid var(--dim) }
[hidden] { display: none !important }
"""
SCRIPT = """
const nav = document.querySelector('nav'), ones = [...document.querySelectorAll('.one')], box = document.querySelector('input'), pick = document.querySelector('select');
let kind = 'all';
function show() {
  const result = pick ? pick.value : '0', words = box.value.toLowerCase();
  const here = ones.filter(one => one.dataset.result === result && one.dataset.id.includes(words));
  ones.forEach(one => { one.hidden = !(here.includes(one) && (kind === 'all' || one.dataset.kind === kind)); });
  nav.querySelectorAll('button').forEach(button => {
    const count = here.filter(one => button.dataset.kind === 'all' || one.dataset.kind === button.dataset.kind).length;
    button.querySelector('span').textContent = count;
    button.setAttribute('aria-pressed', button.dataset.kind === kind);
  });
  document.querySelectorAll('[data-about]').forEach(part => { part.hidden = part.dataset.about !== result; });
  document.getElementById('empty').hidden = ones.some(one => !one.hidden);
}
nav.addEventListener('click', event => { const button = event.target.closest('button'); if (button) { kind = button.dataset.kind; show(); } });
box.addEventListener('input', show); if (pick) pick.addEventListener('change', show);
const telling = ones.find(one => one.dataset.kind === 'lucky');
if (telling) { kind = 'lucky'; if (pick) pick.value = telling.dataset.result; }
show();
const first = ones.find(one => !one.hidden); if (first) first.open = true;
"""


def plain(text) -> str:
    """Text of a model as HTML: escaped, what draws nothing or turns the line around made visible."""
    return escape(str(text).translate(CONTROL))


def kind(item: dict) -> str:
    """How a response went: a key of KINDS."""
    if item["answer"] is None or item["final"] is None:
        return "none"
    if not item["final"]:
        return "wrong"
    return "bare" if not item["steps"] else "right" if all(item["steps"]) else "lucky"


def row(name: str, true: str, said: str | None, right: bool | None, style: str = "") -> str:
    """A line of the table; said is None where the model said nothing, right where nobody judged it."""
    cell = '<span class="dim">missing</span>' if said is None else f'<div class="state">{plain(said)}</div>'
    sign = '<span class="good" title="right">&check;</span>' if right else '<span class="bad" title="wrong">&cross;</span>'
    sign = '<span class="dim" title="not judged">&ndash;</span>' if right is None else sign
    return (f'<tr class="{style}{" off" if right is False else ""}"><td><code>{plain(name)}</code></td><td><div class="state">{plain(true)}</div></td>'
            f'<td>{cell}</td><td class="sign">{sign}</td></tr>')


def table(item: dict) -> str:
    """The interpreter's states and the model's, one anchor a line, then the answer."""
    rows = []
    for i, ((name, true), step) in enumerate(zip(item["anchors"], item["steps"])):
        said = item["predicted"][i] if i < len(item["predicted"]) else None
        rows.append(row(name, true, said and said.removeprefix(f"{name}: "), step > 0))
    for said in item["predicted"][len(item["anchors"]):]:  # the run on an input of the model's own may have more anchors than the example's
        rows.append(row("(not judged)", "", said, None) if item["task"] == "input" else row("(no anchor)", "", said, False))
    wanted = f"any that gives {item['output']}" if item["task"] == "input" else item["output"] or "(judged by the benchmark)"
    rows.append(row("answer", wanted, item["answer"], bool(item["final"]), "answer"))
    return ('<table><thead><tr><th class="name">anchor</th><th>interpreter</th><th>model</th><th class="sign"></th></tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>')


def program(item: dict) -> str:
    """The program as the model saw it, its anchors marked, and the question."""
    lines = []
    for line in item["program"].rstrip().split("\n"):
        before, found, code = line.partition("print(f'")  # a line of its own, or after the counter of a loop
        anchor = found and (not before.strip() or before.lstrip().startswith("if step"))
        lines.append(plain(before) + f"<mark>{plain(found + code)}</mark>" if anchor else plain(line))
    call = item["call"]
    ask = "" if not call else f"assert {call.partition('(')[0]}(??) == {item['output']}" if item["task"] == "input" else f"assert {call} == ??"
    return f'<pre tabindex="0">{chr(10).join(lines)}\n\n<span class="ask">{plain(ask)}</span></pre>'


def example(item: dict, result: int) -> str:
    """One response: a line to open, and what is inside."""
    how, steps = kind(item), "".join('<span class="good">&check;</span>' if step else '<span class="bad">&cross;</span>' for step in item["steps"])
    answer = '<span class="good">answer &check;</span>' if item["final"] else '<span class="bad">answer &cross;</span>'
    answer = '<span class="dim">answer not judged</span>' if item["final"] is None else answer
    tag = {"lucky": "right answer, wrong trace", "none": item["failure"]}.get(how, "")
    note = f'<p class="dim">{escape(item["status"])}</p>' if item["status"] not in ("", "ok", "error") else ""
    return (f'<details class="one {how}" data-kind="{how}" data-result="{result}" data-id="{plain(str(item["id"]).lower())}"><summary><span class="id">{plain(item["id"])}</span>'
            f'<span>{answer}</span><span>{"steps " + steps if steps else ""}</span><span class="tag dim">{plain(tag)}</span></summary>'
            f'<div class="sides"><div>{program(item)}</div><div>{table(item)}{note}</div></div>'
            f'<details><summary class="dim">the whole response, {item["tokens"]} tokens</summary><pre class="wrap" tabindex="0">{plain(item["response"])}</pre></details></details>')


def page(results: list[dict], labels: list[str], count: int) -> str:
    """The page of result files with items; of each at most `count` responses, right answers on a wrong trace first."""
    order = list(KINDS)
    bodies, abouts = [], []
    for number, (result, label) in enumerate(zip(results, labels)):
        items = sorted(result["items"], key=lambda item: order.index(kind(item)))[:count]
        counts = Counter(map(kind, result["items"]))
        bodies += [example(item, number) for item in items]
        abouts.append(f'<p class="dim" data-about="{number}">{plain(label)}: {len(result["items"])} responses, {counts["lucky"]} of {counts["lucky"] + counts["right"]} '
                      f'right answers on a wrong trace' + (f'; the {len(items)} most telling are shown' if len(items) < len(result["items"]) else "") + "</p>")
    options = "".join(f'<option value="{number}">{plain(label)}</option>' for number, label in enumerate(labels))
    buttons = "".join(f'<button data-kind="{name}" aria-pressed="false">{words} <span></span></button>' for name, words in KINDS.items())
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>What the model said at each step</title><style>{STYLE}</style></head><body><h1>What the model said at each step</h1>'
            f'<p>At each anchor (marked in the program) the interpreter\'s state stands beside the model\'s; what differs is marked &cross;.</p>{"".join(abouts)}'
            f'<nav>{f"<select aria-label=results>{options}</select>" if len(labels) > 1 else ""}{buttons}<input type="search" placeholder="find an id" aria-label="find an id"></nav>'
            f'{"".join(bodies)}<p id="empty" class="dim" hidden>None here.</p><script>{SCRIPT}</script></body></html>\n')
