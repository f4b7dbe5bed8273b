"""A killed run goes on as if nothing had happened: the same metrics, bit for bit, and the same weights."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch

import policy
from runs import WORDS, finish, kill_at, launch, metrics, run, start, tiny, weights

SCRIPTS = ["sft", "bigrpo"]
MOMENTS = ["torch.distributed.checkpoint.save", "policy.save", "policy.seal", "policy.sync", "pathlib.Path.rename", "shutil.rmtree"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The tiny model, and an uninterrupted run of each script in `sft` and `bigrpo`."""
    path = tiny(tmp_path_factory.mktemp("resume"))
    for script in SCRIPTS:
        assert run(path, script, path / script) == 0, (path / f"{script}.log").read_text()
        assert weights(path / script) != weights(path)  # it learns something
    return path


def same(folder, script, out):
    assert [record["step"] for record in metrics(out)] == list(range(12))  # none twice, none missing
    assert metrics(out) == metrics(folder / script)
    assert weights(out) == weights(folder / script)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_run_stopped_between_two_checkpoints_goes_on_from_the_one_before(folder, script):
    out = folder / f"{script}-stopped"
    assert run(folder, script, out, **kill_at("policy.optimizer_step", 4)) == -signal.SIGKILL
    assert len(metrics(out)) == 3 and [path.name for path in policy.checkpoints(out / "checkpoints")] == ["step-000002"]
    assert run(folder, script, out) == 0
    same(folder, script, out)


def killed_while_saving(folder, script, moment, call):
    out = folder / f"{script}-{moment}-{call}"
    assert run(folder, script, out, **kill_at(moment, call)) == -signal.SIGKILL
    assert run(folder, script, out) == 0
    same(folder, script, out)


def test_a_run_killed_inside_a_checkpoint_goes_on_from_the_one_before(folder):
    killed_while_saving(folder, "sft", "policy.seal", 4)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_run_killed_at_any_part_of_a_checkpoint(folder, script, moment, call):
    killed_while_saving(folder, script, moment, call)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_twenty_kills_at_random_moments_change_nothing(folder, script):
    rng, met, out, begun = random.Random(0), 0, folder / f"{script}-random", time.time()
    assert run(folder, script, out, "--fresh") == 0
    needed, words = time.time() - begun, ["--fresh"]
    while met < 20:
        process = start(folder, script, out, *words)
        time.sleep(rng.uniform(0, needed))
        process.kill()
        killed = finish(process) == -signal.SIGKILL
        met += killed
        if not killed:  # it was quicker, and has come to its end after some kills: compare, then once more from the start
            same(folder, script, out)
        words = [] if killed else ["--fresh"]
    assert run(folder, script, out) == 0
    same(folder, script, out)


def test_the_run_folder_and_each_checkpoint_hold_what_repeats_the_run(folder):
    settings = json.loads((folder / "bigrpo" / "settings.json").read_text())
    assert settings["settings"]["seed"] == "0" and settings["command"][0] == "bigrpo" and {"torch", "python"} <= settings["versions"].keys()
    assert settings.keys() >= {"command", "settings", "digests", "versions", "git"}
    saved = json.loads((folder / "bigrpo" / "checkpoints" / "step-000012" / "run.json").read_text())
    assert saved == settings | {"step": 12}
    assert policy.load(str(folder / "bigrpo" / "checkpoints" / "step-000012" / "model"))[0].config.model_type == "qwen2"


def demo(path: Path) -> dict[str, bytes | list]:
    """A short demo, from the toy's programs to RL: all that must be the same when it is repeated."""
    log = path / "log"
    path.mkdir()
    assert finish(launch("toy", log, "--out", path / "toy", "--sft", 24, "--rl", 8, "--test", 4, "--width", 32, "--layers", 1, "--seed", 3)) == 0, log.read_text()
    for part in ("sft", "rl"):
        words = ("--programs", path / f"toy/{part}.jsonl", "--out", path / f"{part}.jsonl", "--task", "both", "--prompt", "bare")
        assert finish(launch("augment", log, *words)) == 0, log.read_text()
    for script, model, part in (("sft", "toy/model", "sft"), ("bigrpo", "sft/model", "rl")):
        words = ("--model", path / model, "--data", path / f"{part}.jsonl", "--out", path / script, *WORDS[script], "--seed", 3)
        assert finish(launch(script, log, *words)) == 0, log.read_text()
    files = ["toy/sft.jsonl", "toy/rl.jsonl", "sft.jsonl", "rl.jsonl", "toy/model/model.safetensors", "sft/model/model.safetensors", "bigrpo/model/model.safetensors"]
    return {name: (path / name).read_bytes() for name in files} | {script: metrics(path / script) for script in SCRIPTS}


def test_a_short_run_reaches_its_learning_rate(folder):
    for script in SCRIPTS:
        assert max(record["lr"] for record in metrics(folder / script)) == WORDS[script][WORDS[script].index("--lr") + 1]


def test_what_torch_draws_in_a_step_depends_on_seed_step_and_rank(monkeypatch):
    def draw(*place):
        policy.seed_step(*place)
        return torch.rand(4).tolist()

    assert draw(3, 5) == draw(3, 5) and len({tuple(draw(*place)) for place in ((3, 5), (3, 6), (4, 5))}) == 3
    first = draw(3, 5)
    monkeypatch.setenv("RANK", "1")
    assert draw(3, 5) != first


def test_a_model_that_is_a_link_stays_one(tmp_path):
    tiny(tmp_path)
    (tmp_path / "big").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "big")
    policy.save(*policy.load(str(tmp_path / "model")), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "big/model.safetensors").read_bytes() == weights(tmp_path)


def test_one_seed_gives_the_same_demo_bit_for_bit(tmp_path):
    assert demo(tmp_path / "one") == demo(tmp_path / "two")
