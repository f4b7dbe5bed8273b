"""tools/teacher.py: what of a teacher model's replies is kept, and the endpoint, against a scripted server."""

import http.server
import json
import random
import re
import sys
import threading
import time
from pathlib import Path
from textwrap import dedent

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import augment
import policy
import toy
from test_augment import command
from tools import teacher

CODE = """
    import math
    def f(xs, k):
        '''Sums.'''
        total = 0
        for x in xs:
            if x > 9:
                return x
            total += x
        print('sum', total)
        return math.gcd(total * 2, k)
    """
GOOD = """
    import math
    def f(xs, k):
        '''Sums.'''
        total = 0
        print(f'total: {total}')
        for x in xs:
            if x > 9:
                return_val = x
                print(f'return_val: {return_val}')
                return x
            total += x
        print(f'total: {total}')
        print('sum', total)
        double = total * 2
        print(f'double: {double}')
        return_val = math.gcd(double, k)
        print(f'return_val: {return_val}')
        return return_val
    """


def text(code: str) -> str:
    return dedent(code).strip("\n")


def candidate(code=CODE, call="f([1, 2, 3], 8)") -> augment.Candidate:
    return augment.candidate_of({"id": "p", "code": text(code), "call": call}, augment.Recipe())


def test_a_good_program_is_taken_from_a_fence_or_bare():
    for reply in (text(GOOD), f"Here it is:\n```python\n{text(GOOD)}\n```\nI hope it helps.", f"```\n{text(CODE)}\n```\nor\n```py\n{text(GOOD)}\n"):
        found = teacher.verified(candidate(), reply, 10)
        assert found.instrumented == text(GOOD) and found.agrees is False  # `double` is the model's own idea


def test_agreement_is_of_what_is_printed():
    code = "def f(a):\n    b = a + 1\n    return b"
    reply = "def f(a):\n    b = a + 1\n    print(f'b: {b}')\n    return_val = b\n    print(f'return_val: {return_val}')\n    return return_val"
    item = candidate(code, "f(3)")
    assert item.instrumented != reply and teacher.verified(item, reply, 10).agrees is True


def test_statements_that_share_a_line_get_lines_of_their_own():
    reply = "def f(a): b = a; print(f'b: {b}'); return_val = b; print(f'return_val: {return_val}'); return b"
    found = teacher.verified(candidate("def f(a): b = a; return b", "f(3)"), reply, 10)
    assert found.instrumented.count("\n") == 5


REJECTED = {  # an edit of GOOD, (old, new): and the complaint
    "it does not parse": ("total = 0", "total ="),
    "nested too deeply": ("total = 0", f"total = 0{' + 0' * 300}"),
    "another signature": ("f(xs, k)", "f(xs, k=1)"),
    **({"an f-string that ast cannot write": ("total = 0", "total = 0 * len(f\"{'\u00a0' * k}\")")} if sys.version_info < (3, 12) else {}),
    "other code was changed": ("import math", "import math\nprint(1)"),
    "a print of another form": ("print(f'double: {double}')", "print(f'double is {double}')"),
    "a print inside a loop": ("        total += x", "        total += x\n        print(f'total: {total}')"),
    "a return without its print": ("            print(f'return_val: {return_val}')\n            return x", "            return x"),
    "a statement was changed or left out": ("total = 0", "total = 0.0"),
    "a statement was added": ("double = total * 2\n    print(f'double: {double}')\n    return_val = math.gcd(double, k)",
                              "spare = 5\n    return_val = math.gcd(total * 2, k)"),
    "another result": ("double = total * 2", "double = 12"),  # right for the given call only
    "not 1 to 3 prints": ("total = 0", "total = 0"),
    "return_val is not what is returned": ("return return_val", "return double and return_val"),
    "not deterministic": ("double = total * 2", "double = total * 2\n    order = {'ab', 'cd', 'ef', 'gh', 'ij'}\n    print(f'order: {order}')"),
}


@pytest.mark.parametrize("kind", REJECTED)
def test_rejected(kind):
    old, new = REJECTED[kind]
    assert text(GOOD).count(old) >= 1
    reply = text(GOOD).replace(old, new)
    if kind == "return_val is not what is returned":
        reply = reply.replace("return_val = math.gcd(double, k)", "return_val = (math.gcd(double, k), 1)").replace("double and return_val", "return_val[0]")
    complaint = teacher.verified(candidate(), reply, 3 if kind == "not 1 to 3 prints" else 10)
    assert isinstance(complaint, str) and complaint.partition(":")[0] == kind


OTHER_FUNCTIONS = {  # (P, the teacher's program, the call, the complaint or None)
    "a hard-coded answer": ("def f(a):\n    return a + 1", "def f(a):\n    return_val = 4\n    print(f'return_val: {return_val}')\n    return return_val",
                            "f(3)", "another result"),
    "a hard-coded answer where no argument tells": (
        "def f():\n    return len('ab')", "def f():\n    return_val = 2\n    print(f'return_val: {return_val}')\n    return return_val", "f()", "it cannot be checked on another call"),
    "and one for an empty argument": (
        "def f(s):\n    return len(s) + 1", "def f(s):\n    return_val = 1\n    print(f'return_val: {return_val}')\n    return return_val", "f('')", "another result"),
    "a name that has no value for other arguments": (
        "def f(xs):\n    for x in xs:\n        y = x\n    return len(xs)",
        "def f(xs):\n    for x in xs:\n        y = x\n    print(f'y: {y}')\n    return_val = len(xs)\n    print(f'return_val: {return_val}')\n    return return_val",
        "f([1])", "another result"),
    "an error must stay an error": (
        "def f(a):\n    return 10 // a", "def f(a):\n    return_val = 10 // (a or 1)\n    print(f'return_val: {return_val}')\n    return return_val",
        "f(3)", "another result"),
    "and not become another one": (
        "def f(a):\n    return {1: 2}[a]", "def f(a):\n    return_val = ([2] if a == 1 else [])[0]\n    print(f'return_val: {return_val}')\n    return return_val",
        "f(1)", "another result"),
    "a variable of another name": (
        "def f(a):\n    s = 1\n    for i in a: s += i\n    return s",
        "def f(a):\n    t = 1\n    for i in a: t += i\n    return_val = t\n    print(f'return_val: {return_val}')\n    return t", "f([1])",
        "a statement was changed or left out"),
    "a comprehension unrolled": (
        "def f(a):\n    return [i + 1 for i in a][:2]",
        "def f(a):\n    b = [i + 1 for i in a]\n    print(f'b: {b}')\n    return_val = b[:2]\n    print(f'return_val: {return_val}')\n    return return_val",
        "f([1])", None),
    "no function of that name": ("def f(a):\n    return a", "print('f')", "f(1)", "another signature"),
}


@pytest.mark.parametrize("title", OTHER_FUNCTIONS)
def test_other_functions(title):
    code, reply, call, complaint = OTHER_FUNCTIONS[title]
    found = teacher.verified(candidate(code, call), reply, 10)
    assert found.partition(":")[0] == complaint if complaint else found.instrumented == reply


def test_the_example_in_the_prompt_obeys_the_rules_in_the_prompt():
    before, after = re.findall(r"```python\n(def.*?)```", teacher.TEACH, re.DOTALL)
    assert teacher.verified(candidate(before, "f(['ab', 'c'], 2)"), after, 10).instrumented == after.strip()


def test_mutated_calls_keep_the_types():
    calls = teacher.mutated("f([1, 2], 'ab', k={'a': 1.5}, flag=True, none=None, s={3}, t=(1,))")
    assert calls[0] == "f([], '', k={}, flag=False, none=None, s=set(), t=())" and len(set(calls)) == 4
    for call in calls[1:]:
        assert re.match(r"f\(\[.*\], '.*', k=\{.*\}, flag=False, none=None, s=(\{.*\}|set\(\)), t=\(.*\)\)$", call)
    assert teacher.mutated("f(3)") == teacher.mutated("f(3)") and teacher.mutated("f(open)") == teacher.mutated("f()") == []
    assert teacher.mutated("f('', [], k={})") == ["f('a', [0], k={'a': 0})"]  # the call itself is no other one
    assert all(call.startswith("f(open, ") for call in teacher.mutated("f(open, 3)")) and "f(*[1], 0)" in teacher.mutated("f(*[1], 5)")
    assert {type(teacher.other(5, random.Random(k))) for k in range(9)} == {int}


# ---------------------------------------------------------------------------------------------------------------------
# What becomes of the replies


def programs(count):
    """Different programs `def f(a): b = a + K; return b`."""
    return [{"id": f"p{k}", "code": f"def f(a):\n    b = a + {k}\n    return b", "call": "f(3)"} for k in range(count)]


def well(prompt):
    """A good reply to a prompt of TEACH about one of these programs."""
    program = re.findall(r"```python\n(def.*?)\n```", prompt.partition("\n\nYou replied before:")[0], re.DOTALL)[-1]
    return f"```python\n{augment.instrument(program)}\n```"


def test_a_rejected_reply_gets_one_more_chance_and_is_told_why():
    asked = []

    def ask(prompts):
        asked.extend(prompts)
        return ["def f(a):" if "was rejected" not in prompt else well(prompt) for prompt in prompts]

    report = augment.Report()
    assert len(list(augment.build(programs(3), ask=ask, report=report))) == 3
    assert len(asked) == 6 and "That was rejected: it does not parse:" in asked[3] and "You replied before:\ndef f(a):\n" in asked[3]
    assert report.teacher == {"anchors: asked": 3, "anchors: accepted at the first try": 0, "anchors: accepted at the second try": 3,
                              "anchors: the same as the rules teacher's": 3}


@pytest.mark.parametrize("on_reject", ["rules", "drop"])
def test_what_fails_twice_is_counted(on_reject):
    report = augment.Report()
    broken = {"id": "broken", "code": "def f(a):\n    b = a\n    return 1 / 0", "call": "f(3)"}
    asked = []

    def ask(prompts):
        asked.extend(prompts)
        return [TimeoutError() if "a + 0" in prompt else "no program" if "a + 1" in prompt else well(prompt) for prompt in prompts]

    rows = programs(3)
    examples = list(augment.build([rows[0], broken, *rows[1:]], ask=ask, on_reject=on_reject, report=report))
    assert [example["id"] for example in examples] == (["p0", "p1", "p2"] if on_reject == "rules" else ["p2"])
    assert len(asked) == 5  # nothing is asked about a program that does not run
    assert {key: count for key, count in report.teacher.items() if "rejected" in key} == {
        "anchors: rejected: no reply (TimeoutError)": 1, "anchors: rejected: it does not parse": 1}
    drops = {"the program does not run: ZeroDivisionError": 1}
    if on_reject == "drop":
        drops |= {"the teacher's program: no reply (TimeoutError)": 1, "the teacher's program: it does not parse": 1}
    assert report.dropped == drops


def explain(prompt, state=None):
    """A reply to a prompt of EXPLAIN: the solution with a reasoning before each tag."""
    solution = prompt.partition("The steps and the answer are\n\n")[2].partition("\n\n")[0]
    return "\n".join(f"<reasoning> because of {k} </reasoning>{line}" for k, line in enumerate(solution.splitlines())) + (state or "")


@pytest.mark.parametrize("task", ["output", "input"])
def test_reasoning_by_the_teacher(task):
    def ask(prompts):
        return [well(prompt) if prompt.startswith("Add print") else explain(prompt) for prompt in prompts]

    report = augment.Report()
    [example] = augment.build(programs(1), task=task, ask=ask, reasoning="teacher", report=report)
    first = "<input>3</input><reasoning>because of 1</reasoning>" if task == "input" else ""
    assert example["response"].startswith(f"<reasoning>because of 0</reasoning>{first}<print>b: 3</print>")
    assert augment.perfect(example["response"], example) and report.teacher["reasoning: accepted at the first try"] == 1


BAD_REASONING = {
    "a wrong state or answer": lambda reply: reply.replace("b: 3", "b: 4"),
    "other tags": lambda reply: reply.replace("<print>b: 3</print>", ""),
    "a reasoning that is empty or holds a tag": lambda reply: reply.replace("because of 1", ""),
}


@pytest.mark.parametrize("kind", BAD_REASONING)
def test_bad_reasoning_is_not_kept(kind):
    def ask(prompts):
        return [well(prompt) if prompt.startswith("Add print") else BAD_REASONING[kind](explain(prompt)) for prompt in prompts]

    report = augment.Report()
    assert list(augment.build(programs(1), ask=ask, reasoning="teacher", on_reject="drop", report=report)) == []
    assert report.dropped == {f"the teacher's reasoning: {kind}": 1} and not report.kept
    [example] = augment.build(programs(1), ask=ask, reasoning="teacher", report=report)
    assert example["response"].startswith("<reasoning>b = 3 + 0</reasoning>")  # the rules teacher's


# ---------------------------------------------------------------------------------------------------------------------
# A model of our own


def test_a_local_model(monkeypatch, tmp_path):
    """A random one: its chat template is applied, its nonsense counted, and a prompt that does not fit is not sampled for."""
    tokenizer = toy.make_tokenizer([])
    tokenizer.chat_template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    model = toy.make_model(tokenizer, width=32, layers=1)
    model.config.max_position_embeddings = 4096
    policy.save(model, tokenizer, tmp_path / "model")
    monkeypatch.setattr(teacher, "REPLY_TOKENS", 24)
    sampled, sample = [], policy.sample
    monkeypatch.setattr(policy, "sample", lambda *args, **options: sampled.extend(args[2]) or sample(*args, **options))
    rows = [*programs(1), {"id": "long", "code": f"def f(a):\n    b = a  # {'long ' * 1000}\n    return b", "call": "f(3)"}]
    report = augment.Report()
    assert len(list(augment.build(rows, ask=teacher.local(str(tmp_path / "model")), report=report))) == 2
    texts = [tokenizer.decode(ids) for ids in sampled]
    assert len(texts) == 2 and texts[0].startswith("[Add print") and texts[0].endswith("]") and "That was rejected" in texts[1]
    assert report.teacher["anchors: rejected: no reply (ValueError)"] == 1 and sum(report.teacher.values()) == 4  # asked 2, rejected 2
    assert teacher.local(str(tmp_path / "model"))(["again"]) == teacher.local(str(tmp_path / "model"))(["again"])


# ---------------------------------------------------------------------------------------------------------------------
# An endpoint


class Server:
    """A scripted OpenAI-compatible server: answer(prompt, times asked before) -> text, (status, text), or "half body"."""

    def __init__(self, answer):
        self.asked, self.keys, self.busy, self.most, lock = {}, set(), 0, 0, threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def reply(self, status, body, cut=None):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("Retry-After", "0.01")
                self.end_headers()
                self.wfile.write(data[:cut])
                self.close_connection = cut is not None

            def do_GET(handler):
                self.keys.add(handler.headers["Authorization"])
                handler.reply(200, {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 0, "owned_by": "me"}]})

            def do_POST(handler):
                prompt = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))["messages"][0]["content"]
                with lock:
                    times = self.asked[prompt] = self.asked.get(prompt, -1) + 1
                    self.busy += 1
                    self.most = max(self.most, self.busy)
                found = answer(prompt, times)
                with lock:
                    self.busy -= 1
                if isinstance(found, tuple):
                    return handler.reply(*found)
                body = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny", "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": found}}]}
                handler.reply(200, body, 40 if found == "half body" else None)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve(monkeypatch):
    pytest.importorskip("openai", reason="the openai client is not installed")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "secret-5301")
    servers = []

    def start(answer):
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for one in servers:
        one.server.shutdown()
        one.server.server_close()


@pytest.mark.parametrize("trouble", [(429, {"error": {"message": "slow down"}}), (503, {"error": {"message": "busy"}}), "half body", "slow"])
def test_a_request_is_repeated(serve, trouble):
    def answer(prompt, times):
        if times == 0 and trouble == "slow":
            time.sleep(1)
        return trouble if times == 0 else f"yes {prompt}"

    server = serve(answer)
    ask, model = teacher.endpoint(server.url, None, concurrency=2, timeout=0.5)
    assert model == "tiny" and ask(["a", "b", "c"]) == ["yes a", "yes b", "yes c"]
    assert set(server.asked.values()) == {1} and server.keys == {"Bearer secret-5301"}


@pytest.mark.parametrize("trouble", [(400, {"error": {"message": "too long"}}), (200, b'{"choices": ['), (200, {"error": "what?"}), (200, b"hello"), None,
                                     (200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": [{"type": "text", "text": "yes"}]}}]})])
def test_a_request_that_cannot_be_answered_is_no_reply(serve, trouble):
    ask, _ = teacher.endpoint(serve(lambda prompt, times: trouble if prompt == "b" else "yes").url, None, 2, timeout=5, retries=0)
    first, second, third = ask(["a", "b", "c"])
    assert (first, third) == ("yes", "yes") and isinstance(second, Exception)


def test_concurrency_is_used_and_bounded(serve):
    server = serve(lambda prompt, times: time.sleep(0.05) or prompt)
    ask, _ = teacher.endpoint(server.url, "tiny", concurrency=4)
    assert ask(list("abcdefghijkl")) == list("abcdefghijkl") and server.most == 4


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "programs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in programs(30)))
    return path, tmp_path / "data.jsonl"


def test_the_whole_command(monkeypatch, capsys, serve, files):
    def answer(prompt, times):
        if "a + 7\n" in prompt:
            return "I cannot do that."
        return (429, {"error": {"message": "slow down"}}) if "a + 9\n" in prompt and times == 0 else well(prompt)

    server = serve(answer)
    code, printed, errors = command(monkeypatch, capsys, "--programs", files[0], "--out", files[1], "--teacher-url", server.url, "--on-reject", "drop")
    assert code == 0 and "dropped      1  the teacher's program: it does not parse  (p7)" in printed
    assert "teacher     29  anchors: the same as the rules teacher's (96.7%)" in printed
    card = files[1].with_suffix(".card.json").read_text()
    assert json.loads(card)["settings"]["teacher"] == "tiny" and json.loads(card)["teacher"]["anchors: accepted at the first try"] == 29
    assert "openai" in json.loads(card)["versions"] and "secret" not in printed + errors + card


def test_an_endpoint_that_fails_stops_the_run_and_shows_no_key(monkeypatch, capsys, serve, files):
    refused = (401, {"error": {"message": "wrong key secret-5301"}})
    code, printed, errors = command(monkeypatch, capsys, "--programs", files[0], "--out", files[1], "--teacher-url", serve(lambda *_: refused).url)
    assert code == 2 and "20 requests in a row failed, the last: AuthenticationError" in errors and "wrong key ***" in errors
    assert "secret" not in printed + errors + "".join(path.read_text() for path in files[1].parent.iterdir())


def test_a_teacher_that_never_replies_is_an_error_and_what_was_made_stays(monkeypatch, capsys, serve, files):
    code, _, errors = command(monkeypatch, capsys, "--programs", files[0], "--out", files[1], "--teacher-url", serve(lambda *_: None).url)
    assert code == 2 and "the teacher model gave no reply at all" in errors.splitlines()[-1] and files[1].exists()


def test_no_endpoint(monkeypatch, capsys, serve, files):
    monkeypatch.setattr(teacher.endpoint, "__defaults__", (1.0, 0))
    code, _, errors = command(monkeypatch, capsys, "--programs", files[0], "--out", files[1], "--teacher-url", "http://127.0.0.1:9/v1")
    assert code == 2 and "--teacher-url http://127.0.0.1:9/v1: the list of models: APIConnectionError" in errors.splitlines()[-1]


def test_without_the_openai_client(monkeypatch, capsys, files):
    monkeypatch.setitem(sys.modules, "openai", None)
    code, _, errors = command(monkeypatch, capsys, "--programs", files[0], "--out", files[1], "--teacher-url", "http://127.0.0.1:9/v1")
    assert code == 2 and errors.splitlines()[-1] == "error: --teacher-url needs the openai client: pip install openai"
