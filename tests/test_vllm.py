"""The vLLM sampler on a CPU, with real vLLM (`make test-vllm`): what it samples, and that it samples with the weights of now."""

import importlib.util
import json
import sys

import pytest
import torch

import augment
import evaluate
import policy
import runs
import test_ranks
import toy
from tools import teacher

pytestmark = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed: make test-vllm")
torch.set_num_threads(1)
LENGTH = 96  # of the context, prompt and response


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """(model, tokenizer, the vLLM sampler of its checkpoint, a folder); the model's end token is its padding token too, and token 5 ends as well."""
    folder = runs.tiny(tmp_path_factory.mktemp("vllm"))
    model, tokenizer = policy.load(str(folder / "model"))
    tokenizer.pad_token = tokenizer.eos_token
    model = toy.make_model(tokenizer, width=128, layers=2, seed=1)  # 32 is the least width of a head that vLLM has on a CPU
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)  # uneven distributions, in which the end tokens come now and then
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 5]
    policy.save(model, tokenizer, folder / "model")
    model, tokenizer = policy.load(str(folder / "model"))
    sampler = policy.make_sampler("vllm", str(folder / "model"), model, tokenizer, LENGTH, memory=0.4)
    sampler.load(model)
    return model, tokenizer, sampler, folder


def prompts(tokenizer):
    """Of very different lengths, the last one leaving room for 16 tokens of the context and no more."""
    ids = [token % (len(tokenizer) - 1) for token in range(7, 7 + LENGTH)]
    ids = [1 if token == tokenizer.eos_token_id else token for token in ids]
    return [ids[:1], ids[3:5], ids[:40], ids[10:30], ids[:LENGTH - 16]]


def trainer_gap(model, some, samples, temperature):
    """Largest difference between the sampler's log-probabilities and the trainer's."""
    flat = [(prompt, one) for prompt, group in zip(some, samples) for one in group]
    found, _ = policy.token_logprobs(model, [prompt for prompt, _ in flat], [one.ids for _, one in flat], temperature)
    return (found.detach() - torch.tensor([x for _, one in flat for x in one.logprobs])).abs().max().item()


def test_greedy_text_equals_the_transformers_sampler_s(parts):
    model, tokenizer, sampler, _ = parts
    some = prompts(tokenizer)
    found = sampler(some, 1, 16, 0, [(p,) for p in range(len(some))])
    expected = policy.sample(model, tokenizer, some, 1, 16, 0)
    assert [one.ids for one, in found] == [one.ids for one, in expected]
    assert [one.ended for one, in found] == [one.ended for one, in expected]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.3])
def test_its_log_probabilities_are_the_trainer_s_at_every_temperature(parts, temperature):
    model, tokenizer, sampler, _ = parts
    some = prompts(tokenizer)
    samples = sampler(some, 8, 16, temperature, [(0, p) for p in range(len(some))])
    assert [len(group) for group in samples] == [8] * len(some)
    assert trainer_gap(model, some, samples, temperature) < 1e-4


def test_samples_stop_at_the_end_token_or_the_limit_and_follow_their_seeds(parts):
    model, tokenizer, sampler, _ = parts
    some = prompts(tokenizer)
    first, again, other = (sampler(some, 64, 16, 1.0, [(seed, p) for p in range(len(some))]) for seed in (0, 0, 1))
    flat = [one for group in first for one in group]
    assert [one.ids for one in flat] == [one.ids for group in again for one in group] != [one.ids for group in other for one in group]
    assert len({tuple(one.ids) for one in first[0]}) > 32  # a stream for each rollout
    for one in flat:
        assert len(one.ids) == len(one.logprobs) <= 16 and not {tokenizer.eos_token_id, 5} & {*one.ids[:-1]}
        assert one.ended == (one.ids[-1] in (tokenizer.eos_token_id, 5)) and (one.ended or len(one.ids) == 16)
    assert {one.ids[-1] for one in flat if one.ended} == {tokenizer.eos_token_id, 5} and not all(one.ended for one in flat)


def test_after_a_training_step_it_samples_with_the_new_weights(parts):
    model, tokenizer, sampler, folder = parts
    some = prompts(tokenizer)
    old, _ = policy.load(str(folder / "model"))
    logprobs, _ = policy.token_logprobs(model, some, [[5, 6, 7]] * len(some))
    (-logprobs.sum()).backward()
    policy.optimizer_step(model, policy.make_optimizers(model, "adamw", 0.02), 0.02, 1.0)
    stale = sampler(some, 4, 16, 1.0, [(2, p) for p in range(len(some))])  # not told: the prefix cache and the weights of before
    assert trainer_gap(old, some, stale, 1.0) < 1e-4 and trainer_gap(model, some, stale, 1.0) > 0.01
    sampler.load(model)
    fresh = sampler(some, 4, 16, 1.0, [(2, p) for p in range(len(some))])
    assert trainer_gap(model, some, fresh, 1.0) < 1e-4 and trainer_gap(old, some, fresh, 1.0) > 0.01


def test_a_run_of_bigrpo_with_it_keeps_the_gap_at_rounding(parts, tmp_path, monkeypatch):
    import bigrpo

    monkeypatch.setattr(sys, "argv", ["bigrpo.py", "--sampler", "vllm", "--model", str(parts[3] / "model"), "--data", str(parts[3] / "examples.jsonl"),
                                      "--out", str(tmp_path / "out"), *map(str, runs.WORDS["bigrpo"]), "--steps", "3"])
    bigrpo.main()
    assert [record["sampler_gap"] < 1e-4 for record in runs.metrics(tmp_path / "out")] == [True] * 3


def test_a_greedy_evaluation_with_it_equals_one_with_the_transformers_sampler(parts, tmp_path, monkeypatch):
    programs = [*toy.programs(12, True, 2, 0), {"id": "long", "code": f"def f(a):\n    return a  # {'long ' * 200}", "call": "f(3)"}]
    toy.write_jsonl(tmp_path / "examples.jsonl", augment.build(programs, prompt="bare"))
    found = []
    for sampler in ("vllm", "transformers"):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", "--model", str(parts[3] / "model"), "--data", str(tmp_path / "examples.jsonl"), "--max-tokens", "40",
                                          "--sampler", sampler, "--out", str(tmp_path / sampler)])
        evaluate.main()
        found.append(json.loads((tmp_path / sampler).read_text()))
        assert found[-1]["settings"].pop("sampler") == sampler and found[-1]["settings"].pop("out")
    assert found[0] == found[1] and len({item["response"] for item in found[0]["items"]}) > 6
    assert found[0]["failures"]["prompt longer than the context"] == 1


def test_a_teacher_of_our_own_answers_the_same_with_it(parts, monkeypatch):
    found = []
    monkeypatch.setattr(teacher, "REPLY_TOKENS", 24)
    for sampler in ("vllm", "transformers"):
        monkeypatch.setattr(policy, "choose_sampler", lambda kind, sampler=sampler: sampler)
        found.append(teacher.local(str(parts[3] / "model"))(["Say yes.", "long " * 200, "Say no, or something else."]))
        assert isinstance(found[-1].pop(1), ValueError)  # it does not fit
    assert found[0] == found[1] and found[0][0] != found[0][1]


@pytest.mark.slow
def test_two_ranks_with_an_engine_each_end_where_one_process_does(parts, tmp_path):
    (tmp_path / "run.py").write_text(test_ranks.RUN)
    for count in (1, 2):
        done = test_ranks.torchrun(count, tmp_path / "run.py", "bigrpo", "--sampler", "vllm", "--model", parts[3] / "model", "--data", parts[3] / "examples.jsonl",
                                   *runs.WORDS["bigrpo"], "--steps", 4, "--prompts", 5, "--token-budget", 60, "--out", tmp_path / str(count))
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    one, two = runs.metrics(tmp_path / "1"), runs.metrics(tmp_path / "2")
    assert len(one) == len(two) == 4 and any(record["grad_norm"] > 1e-3 for record in one)
    for a, b in zip(one, two):
        assert {**b, "warnings": 0} == pytest.approx({**a, "warnings": 0}, rel=1e-4, abs=1e-5)
    before, first, second = (policy.load(str(path / "model"))[0].state_dict() for path in (parts[3], tmp_path / "1", tmp_path / "2"))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-3)  # AdamW divides by the size of a gradient, rounding and all
        assert (value - before[name]).abs().max() > 5e-3
