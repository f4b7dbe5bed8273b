"""sft.py and one step of bigrpo.py on a tiny model: the weights move the right way, and a run leaves what repeats it."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import bigrpo
import policy
import sft
from rewards import Response
from runs import tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny checkpoint and an example file, of output prediction, made without a sandbox."""
    return tiny(tmp_path_factory.mktemp("sft"))


def run(monkeypatch, module, *words):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
    module.main()


def test_a_step_lowers_the_loss_on_responses_and_prompts_carry_none(folder):
    model, tokenizer = policy.load(str(folder / "model"))
    prompts, responses = [tokenizer.encode("a = 1")], policy.encode_responses(tokenizer, ["<answer>1</answer>"])
    optimizers = policy.make_optimizers(model, "adamw", 1e-3)
    losses = [sft.train_step(model, optimizers, prompts, responses, 64, 1e-3)["loss"] for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    by_hand = -policy.token_logprobs(model, prompts, responses)[0].mean().item()
    assert sft.train_step(model, optimizers, prompts, responses, 64, 1e-3)["loss"] == pytest.approx(by_hand)


def test_the_gradient_does_not_depend_on_micro_batches(folder):
    gradients = []
    for budget in (1, 40, 10_000):
        model, tokenizer = policy.load(str(folder / "model"))
        rows = policy.read_jsonl(folder / "examples.jsonl", ("prompt", "response"))
        prompts, responses = sft.encode_examples(folder, rows, tokenizer, 512)
        gradients.append(sft.train_step(model, [], prompts, responses[:1] + [r[:5] for r in responses[1:]], budget, 1e-3)["grad_norm"])
    assert gradients == pytest.approx([gradients[0]] * 3, rel=1e-5)


def test_muon_takes_the_matrices_between_embedding_and_head(folder):
    model, _ = policy.load(str(folder / "model"))
    muon, adamw = policy.make_optimizers(model, "muon", 1e-3)
    shapes = [weight.ndim for group in muon.param_groups for weight in group["params"]]
    assert len(shapes) == 7 and set(shapes) == {2}  # q, k, v, o, gate, up, down of one layer
    count = sum(len(group["params"]) for optimizer in (muon, adamw) for group in optimizer.param_groups)
    assert count == len(list(model.parameters()))


def test_long_examples_are_counted_and_an_empty_rest_is_an_error(folder, capsys):
    _, tokenizer = policy.load(str(folder / "model"))
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "a" * 50, "response": "b"}]
    prompts, _ = sft.encode_examples(folder, rows, tokenizer, 20)
    assert len(prompts) == 1 and "dropped 1 of 2" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        sft.encode_examples(folder, rows, tokenizer, 1)
    assert stop.value.code == 2


def test_what_is_typed_is_what_stands_there_by_default():
    # settings are compared as text, and a run goes on where a default is spelled out: 4 and 4.0 would not do
    for parser in (sft.build_parser(), bigrpo.build_parser()):
        for action in parser._actions:
            if action.type and not isinstance(action.default, (str, type(None), Path)):
                assert str(action.type(str(action.default))) == str(action.default), action.dest


@pytest.mark.parametrize("name", ["absent/model", "a/b/c", "{folder}/none"])
def test_a_model_that_is_not_there_is_not_looked_for_elsewhere(folder, monkeypatch, capsys, name):
    monkeypatch.chdir(folder)
    if name == "absent/model":
        (folder / "absent").mkdir()  # a folder of the user's: no name of Hugging Face's
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda *_: pytest.fail("asked for it"))
    with pytest.raises(SystemExit):
        policy.load(name.format(folder=folder))
    assert "no such folder. The toy's are made by" in capsys.readouterr().err
    for identity in ("Qwen/Qwen2.5-Coder-0.5B-Instruct", "gpt2"):
        with pytest.raises(pytest.fail.Exception, match="asked for it"):
            policy.load(identity)


def test_the_rate_that_is_logged_is_the_one_that_trains_and_the_seed_orders_the_examples(folder, monkeypatch, tmp_path):
    calls, step = [], sft.train_step
    monkeypatch.setattr(sft, "train_step", lambda model, optimizers, prompts, responses, budget, lr: calls.append((lr, prompts)) or step(model, optimizers, prompts, responses, budget, lr))
    for seed in (0, 1):
        run(monkeypatch, sft, "--model", folder / "model", "--data", folder / "examples.jsonl", "--out", tmp_path / str(seed), "--batch", 4, "--seed", seed, "--epochs", 1)
    logged = [json.loads(line)["lr"] for seed in "01" for line in (tmp_path / seed / "metrics.jsonl").read_text().splitlines()]
    assert [lr for lr, _ in calls] == logged and len(set(logged)) > 1
    assert len(calls) == 4 and calls[0][1] != calls[2][1]  # eight examples of either seed in batches of four


def test_a_long_gradient_is_shortened_to_1(folder):
    model, tokenizer = policy.load(str(folder / "model"))
    before = [weight.detach().clone() for weight in model.parameters()]
    prompts, responses = [tokenizer.encode("a = 1")], policy.encode_responses(tokenizer, ["<answer>1</answer>"])
    norm = sft.train_step(model, [torch.optim.SGD(model.parameters(), lr=1.0)], prompts, responses, 64, 1.0)["grad_norm"]
    moved = sum((weight - old).square().sum() for weight, old in zip(model.parameters(), before)) ** 0.5
    assert norm > 1.5 and moved.item() == pytest.approx(1, rel=1e-3)


def test_damaged_weights_are_one_line(folder, tmp_path, capsys):
    shutil.copytree(folder / "model", tmp_path / "model")
    os.truncate(tmp_path / "model/model.safetensors", 1000)
    with pytest.raises(SystemExit):
        policy.load(str(tmp_path / "model"))
    assert f"error: {tmp_path / 'model'}: no checkpoint folder and no" in capsys.readouterr().err


def test_blank_lines_are_no_examples(tmp_path, capsys):
    path = tmp_path / "examples.jsonl"
    path.write_text('{"prompt": "a"}\n\n  \n{"prompt": "b"}\n')
    assert [row["prompt"] for row in policy.read_jsonl(path, ("prompt",))] == ["a", "b"]
    path.write_text('{"prompt": "a"}\n\n{"prompt"\n')
    with pytest.raises(SystemExit):
        policy.read_jsonl(path, ("prompt",))
    assert f"{path}: line 3: " in capsys.readouterr().err
    path.write_text('{"prompt": ""}\n')  # nothing would predict its response's first token
    with pytest.raises(SystemExit):
        policy.read_jsonl(path, ("prompt",))
    assert f"{path}: line 1: the field 'prompt' holds ''" in capsys.readouterr().err


def test_a_run_leaves_settings_metrics_and_a_checkpoint_and_repeats_from_its_seed(folder, monkeypatch):
    for name in ("one", "two"):
        run(monkeypatch, sft, "--model", folder / "model", "--data", folder / "examples.jsonl", "--out", folder / name, "--batch", 4, "--lr", 1e-3)
    records = [[json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()] for name in ("one", "two")]
    for record in records[0] + records[1]:
        record.pop("timing")
        assert 0.05 < record.pop("memory_gb") < 50
    assert records[0] == records[1] and len(records[0]) >= 4
    assert json.loads((folder / "one" / "settings.json").read_text())["settings"]["batch"] == "4"
    assert policy.load(str(folder / "one" / "model"))[0].config.model_type == "qwen2"


class RewardForOnes:
    """Stands in for rewards.py: every response that holds a 1 is right. Only a policy that moves toward ones gains."""

    @staticmethod
    def parse(text):
        return Response(answer=text)

    @staticmethod
    def traces_of_inputs(responses, examples):
        return []

    @staticmethod
    def score_parsed(responses, examples, traces):
        return [[0.0, 0.0]] * len(responses), [[True, True]] * len(responses), [float("1" in response.answer) for response in responses]


def test_rl_steps_raise_the_reward(folder, monkeypatch):
    monkeypatch.setattr(bigrpo, "rewards", RewardForOnes)
    run(monkeypatch, bigrpo, "--model", folder / "model", "--data", folder / "examples.jsonl", "--out", folder / "rl", "--steps", 16,
        "--prompts", 8, "--group", 8, "--max-tokens", 12, "--lr", 3e-2, "--beta", 0)
    rewards = [json.loads(line)["final_reward"] for line in (folder / "rl" / "metrics.jsonl").read_text().splitlines()]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    rollouts = [json.loads(line) for line in (folder / "rl" / "rollouts.jsonl").read_text().splitlines()]
    assert {row["step"] for row in rollouts} == {0, 10, 15} and len(rollouts) == 3 * 64
    assert all(len(row["starts"]) == len(row["token_advantage"]) for row in rollouts)
