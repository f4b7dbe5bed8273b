"""Bi-Level GRPO: every step of a trace gets its own credit (section 3.3 of arXiv 2605.11922, Eqs. 8-15).

For each prompt the policy samples a group of G responses. A response predicts n anchors, then the answer. Each anchor is
compared with the other rollouts' attempt at the same anchor (Eq. 10) and with what its own rollout got right after it
(Eq. 11); the answer is compared within the group as in GRPO. A token is pushed by the answer's advantage and by that of the
step it belongs to.

    python bigrpo.py                                         # the toy: runs/sft/model -> runs/rl/model
    torchrun bigrpo.py                                       # the same; --nproc_per_node 8: the prompts split over 8 GPUs (FSDP2)
    python bigrpo.py --explain                               # a worked group, without a model
    python bigrpo.py --model runs/qwen-sft/model --data rl.jsonl --out runs/qwen-rl --group 5 --optimizer adamw --lr 1e-6 --max-tokens 2048

Shapes: P prompts in a batch, G rollouts of each, n anchors of a prompt, N response tokens of a micro-batch, end to end.

Where the paper is silent or prints something no framework does, this file chooses:
1. Ratio and clip per token, in PPO's pessimistic form with both signs right. As printed, Eqs. 13-14 have one ratio a step and no clip.
2. Every response token carries A_final; the tokens of block i (its <reasoning> and its <print>) carry A[g,i] on top.
   Eqs. 13-14 give the <reasoning> tokens no term.
3. One normaliser an optimizer step: the response tokens of the whole batch over all ranks, in place of Eq. 13's 1/G sum over i.
4. std is the population's, and a column whose rewards are all equal (std < 1e-3) gets A_group = 0 by a branch, not by rounding.
5. Input prediction: a rollout's own trace may be shorter than the example's; what is beyond it is masked out of every mean,
   and a column with fewer than two unmasked rollouts gets A_group = 0 (its A_intra stays, as in an all-equal column).
6. n = 1 (only the return anchor): the step term is left out, as in the paper's text.
7. KL (Eq. 15) by the estimator k3 (the field's default) or k2, with a coefficient beta. For each token, given those before it, k3's value is
   unbiased for KL(pi || pi_ref) but its on-policy gradient is that of KL(pi_ref || pi); k2's gradient is Eq. 15's.
8. A rollout that is cut at the length limit keeps its rewards; the share of cut rollouts is logged.
9. Blocks beyond the example's n anchors, and a block that was not finished, carry A_final only.
10. One optimizer step a batch of rollouts (`--updates`), so that the ratio is 1 and the clip idle; beta is 0.001.
"""

import argparse
import functools
import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import policy  # before torch: it says how OpenMP's threads wait

import torch

import rewards

# ---------------------------------------------------------------------------------------------------------------------
# The maths: tensors in, tensors out


def _checked(rewards: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(rewards, mask) as floats of one shape [G, n]; ValueError for another shape, G < 2 or a reward that is not finite."""
    if rewards.ndim != 2 or rewards.shape[0] < 2:
        raise ValueError(f"rewards must be [G, n] with G >= 2, not {list(rewards.shape)}")
    if mask is not None and mask.shape != rewards.shape:
        raise ValueError(f"mask {list(mask.shape)} must have the shape of rewards {list(rewards.shape)}")
    rewards = rewards if rewards.is_floating_point() else rewards.float()
    if not torch.isfinite(rewards).all():
        raise ValueError("a reward is NaN or infinite")
    return rewards, torch.ones_like(rewards) if mask is None else mask.to(rewards.dtype)


def group_advantage(rewards: torch.Tensor, mask: torch.Tensor | None = None, eps: float = 1e-6, norm: str = "std") -> torch.Tensor:
    """Eq. 10: how much better than the other rollouts of its group this one did at the same anchor.

    rewards [G, n], mask [G, n] (True where the rollout has this anchor) -> [G, n], 0 where masked. norm "none" leaves the
    division by the standard deviation out. Raises ValueError for a wrong shape, G < 2 or a NaN reward.
    """
    rewards, mask = _checked(rewards, mask)
    count = mask.sum(0)  # [n]
    mean = (rewards * mask).sum(0) / count.clamp(min=1)  # [n]
    deviation = (rewards - mean) * mask  # [G, n]
    std = (deviation.square().sum(0) / count.clamp(min=1)).sqrt()  # [n], population
    scale = {"std": std + eps, "none": 1.0}[norm]
    return torch.where(std < 1e-3, 0.0, deviation / scale)  # equal rewards, or a single unmasked one


def intra_advantage(rewards: torch.Tensor, mask: torch.Tensor | None = None, center: bool = False) -> torch.Tensor:
    """Eq. 11: a right step counts for itself and for the share of right steps after it, r_i * (1 + mean of r_j, j > i).

    rewards [G, n], mask [G, n] -> [G, n], 0 where masked. The mean over no later step is 0; the final answer is not in it.
    `center` subtracts the group's mean per column (not in the paper). Raises as group_advantage does.
    """
    rewards, mask = _checked(rewards, mask)
    known = rewards * mask
    later = known.sum(1, keepdim=True) - known.cumsum(1)  # [G, n], sum over j > i
    count = mask.sum(1, keepdim=True) - mask.cumsum(1)  # [G, n], how many j > i
    intra = known * (1 + later / count.clamp(min=1))
    if center:
        intra = (intra - intra.sum(0) / mask.sum(0).clamp(min=1)) * mask
    return intra


def bilevel_advantage(step_rewards: torch.Tensor, mask: torch.Tensor | None = None, lam: float = 0.3, norm: str = "std",
                      center_intra: bool = False) -> torch.Tensor:
    """Eq. 12: A = A_group + lam * A_intra, [G, n] -> [G, n]. lam = 0 is Step-GRPO."""
    return group_advantage(step_rewards, mask, norm=norm) + lam * intra_advantage(step_rewards, mask, center_intra)


def token_blocks(starts: torch.Tensor, spans: list[tuple[int, int]], n: int) -> torch.Tensor:
    """Which step each token belongs to: [N] in 0..n, where n means none.

    starts [N] is the index of each token's first character in the response's text (policy.decode); spans holds (start, end) of
    each block's characters, in order (rewards.parse). Tokens of blocks beyond the example's n anchors belong to none.
    """
    spans = spans[:n] or [(0, 0)]  # without blocks an empty one, in which no token lies
    begin = torch.tensor([start for start, _ in spans])
    end = torch.tensor([end for _, end in spans])
    block = torch.bucketize(starts, end, right=True)  # the first block that ends after this character; len(end) where none does,
    inside = (block < len(end)) & (starts >= begin[block.clamp(max=len(end) - 1)])  # so it is clamped to index begin
    return torch.where(inside, block, n)


def token_advantage(step: torch.Tensor, final: torch.Tensor, rollout: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Token credit: A_final of the token's rollout, plus A[g, i] of the step it belongs to.

    step [G, n], final [G]; rollout [N] in 0..G-1, block [N] in 0..n (n: no step) -> [N].
    """
    padded = torch.cat([step, step.new_zeros(len(step), 1)], 1)  # [G, n + 1]
    return final[rollout] + padded[rollout, block]


def policy_loss(logprobs: torch.Tensor, old: torch.Tensor, advantage: torch.Tensor, clip_low: float = 0.2,
                clip_high: float = 0.2) -> torch.Tensor:
    """Eqs. 13-14 per token, with PPO's clip: -min(ratio * A, clip(ratio) * A). All [N]."""
    ratio = (logprobs - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)


def kl_penalty(logprobs: torch.Tensor, reference: torch.Tensor, kind: str = "k3") -> torch.Tensor:
    """The KL of Eq. 15 per sampled token, [N] -> [N], with d = log pi_ref - log pi: k3 = exp(d) - d - 1, k2 = d * d / 2."""
    d = reference - logprobs
    return {"k3": d.exp() - d - 1, "k2": d.square() / 2}[kind]


# ---------------------------------------------------------------------------------------------------------------------
# Sample, reward, advantage


@dataclass
class Rollout:
    """One sampled response with everything that its loss needs."""

    example: dict
    prompt: list[int]
    sample: policy.Sample
    text: str
    starts: list[int]  # [tokens], each token's first character in text
    step_rewards: list[float] = field(default_factory=list)  # [n]
    mask: list[bool] = field(default_factory=list)  # [n]
    final: float = 0.0
    step_advantage: list[float] = field(default_factory=list)  # [n]
    final_advantage: float = 0.0
    advantage: torch.Tensor | None = None  # [tokens]

    @functools.cached_property
    def parsed(self) -> rewards.Response:
        return rewards.parse(self.text)


def roll_out(sampler, tokenizer, examples: list[dict], streams: list[tuple], args) -> list[list[Rollout]]:
    """Sample `--group` responses to every example: a list of G Rollouts for each, not yet scored."""
    prompts = policy.encode_prompts(tokenizer, [example["prompt"] for example in examples])
    samples = sampler(prompts, args.group, args.max_tokens, args.temperature, streams)
    return [[Rollout(example, prompt, one, *policy.decode(tokenizer, one.ids, one.ended)) for one in some]
            for example, prompt, some in zip(examples, prompts, samples)]


def score(groups: list[list[Rollout]]) -> int:
    """Eqs. 8-9: fill in the rewards of every rollout; how many runs of committed inputs the sandbox lost, which count as wrong."""
    flat = [rollout for group in groups for rollout in group]
    parsed, examples = [rollout.parsed for rollout in flat], [rollout.example for rollout in flat]
    traces = rewards.traces_of_inputs(parsed, examples)
    steps, masks, finals = rewards.score_parsed(parsed, examples, traces)
    for rollout, step_rewards, mask, final in zip(flat, steps, masks, finals):
        if not all(map(math.isfinite, [*step_rewards, final])):
            policy.fail(f"example {rollout.example['id']}: a reward is not finite; the weights were left as they were")
        rollout.step_rewards, rollout.mask, rollout.final = step_rewards, mask, final
    return sum(trace is not None and trace.status == "lost" for trace in traces)


def assign_credit(group: list[Rollout], args) -> None:
    """Eqs. 10-12 for one group, then the spreading over tokens: fill in the advantages of its rollouts."""
    final = torch.tensor([[rollout.final] for rollout in group])  # [G, 1]
    final_advantage = group_advantage(final, norm=args.norm)[:, 0]  # [G]
    step = torch.tensor([rollout.step_rewards for rollout in group])  # [G, n]
    mask = torch.tensor([rollout.mask for rollout in group])  # [G, n]
    if args.advantage == "terminal" or step.shape[1] < 2:  # n = 1: the only anchor repeats the answer
        step_advantage = torch.zeros_like(step)
    else:
        step_advantage = bilevel_advantage(step, mask, args.lam, args.norm, args.center_intra)
    for g, rollout in enumerate(group):
        spans = [(block.start, block.end) for block in rollout.parsed.blocks]
        block = token_blocks(torch.tensor(rollout.starts), spans, step.shape[1])  # [tokens]
        rollout.advantage = token_advantage(step_advantage, final_advantage, torch.full_like(block, g), block)
        rollout.step_advantage, rollout.final_advantage = step_advantage[g].tolist(), final_advantage[g].item()


# ---------------------------------------------------------------------------------------------------------------------
# Update


def update(model, optimizers, reference, batch: list[Rollout], lr: float, args) -> dict[str, float]:
    """Eq. 15 on one batch, `--updates` times. Returns what the health line reports, as means over the response tokens of all ranks.

    The model must come without gradients, and is left without."""
    model.train()
    total = policy.all_sum(torch.tensor(float(sum(len(rollout.sample.ids) for rollout in batch)), device=model.device))
    pieces, retries = policy.accumulate(lambda parts: prepare_all(model, reference, batch, args.token_budget // parts, args), model)

    def gradient(parts: int) -> dict[str, torch.Tensor]:
        sums = defaultdict(lambda: torch.zeros((), device=model.device))
        smaller = pieces if parts == 1 else [half for piece in pieces for half in halves(piece)]
        for piece in smaller:
            with torch.set_grad_enabled(piece["learns"]):
                loss = token_loss(model, piece, sums, args)  # [N]
            if piece["learns"]:
                (loss.sum() / total).backward()
        return sums

    passes = []  # what each update reports
    for _ in range(args.updates):
        sums, retried = policy.accumulate(gradient, model)
        retries += retried
        means = policy.all_sum(torch.stack([*sums.values()])) / total
        passes.append(dict(zip(sums, means.tolist())))
        if not all(map(math.isfinite, passes[-1].values())):  # optimizer_step looks at the gradient, which not every micro-batch has
            policy.fail("a log-probability or the loss is not finite; the weights were left as they were")
        if (gap := passes[0]["sampler_gap"]) > args.max_gap:
            policy.fail(f"the sampler's log-probabilities differ from the trainer's by {gap:.3g} nats a token, more than --max-gap {args.max_gap}: it has "
                        "old weights, another temperature or a coarser precision. The weights were left as they were")
        passes[-1]["grad_norm"] = policy.optimizer_step(model, optimizers, lr, args.max_grad_norm)
    first = {"first_ratio": passes[0]["ratio"], "sampler_gap": passes[0]["sampler_gap"], "retries": retries}  # before the policy moved
    return {name: sum(one[name] for one in passes) / args.updates for name in passes[0]} | first


def prepare_all(model, reference, batch: list[Rollout], token_budget: int, args) -> list[dict]:
    """The batch as micro-batches. Rollouts without a gradient stand in micro-batches of their own, which are read for the health line only."""
    all_learn = args.beta or policy.ranks() > 1  # KL has a gradient at every token; FSDP's ranks must go backward equally often
    batches = []  # (learns, rollouts)
    for learns in (True, False):
        part = [rollout for rollout in batch if bool(all_learn or rollout.advantage.any()) == learns]
        lengths = [len(rollout.prompt) + len(rollout.sample.ids) for rollout in part]
        batches += [(learns, [part[i] for i in rows]) for rows in policy.micro_batches(lengths, token_budget, [rollout.prompt for rollout in part])]
    spare = policy.missing(batches)  # the first once more, of weight 0, so that every rank makes equally many
    pieces = [prepare(model, reference, part, args) | {"learns": learns} for learns, part in batches + batches[:1] * spare]
    for piece in pieces[len(batches):]:
        piece["weight"] = 0.0
    pieces[0]["learns"] = True  # a batch without any advantage has a gradient too, zeros: AdamW's moments decay, as they do on several ranks
    return pieces


def prepare(model, reference, rollouts: list[Rollout], args) -> dict:
    """A micro-batch as tensors, with the log-probabilities that stay fixed during the updates; every tensor is [N]."""
    inputs = {"prompts": [r.prompt for r in rollouts], "responses": [r.sample.ids for r in rollouts], "temperature": args.temperature}
    with torch.no_grad():
        old = policy.token_logprobs(model, **inputs)[0] if args.updates > 1 else None
        ref = policy.token_logprobs(reference, **inputs)[0] if args.beta else None
    return {"inputs": inputs, "old": old, "ref": ref, "weight": 1.0,
            "advantage": torch.cat([r.advantage for r in rollouts]).to(model.device),
            "sampled": torch.tensor([x for r in rollouts for x in r.sample.logprobs], device=model.device)}


def halves(piece: dict) -> list[dict]:
    """A micro-batch as two, of half its rows each; a single row stays as it is."""
    inputs, row = piece["inputs"], len(piece["inputs"]["responses"]) // 2  # row, token: where the second half begins
    token = sum(map(len, inputs["responses"][:row]))
    parts = []
    for rows, tokens in ((slice(row), slice(token)), (slice(row, None), slice(token, None))):
        part = {name: value[tokens] if torch.is_tensor(value) else value for name, value in piece.items()}
        parts.append(part | {"inputs": inputs | {name: inputs[name][rows] for name in ("prompts", "responses")}})
    return parts if row else [piece]


def token_loss(model, piece: dict, sums: dict, args) -> torch.Tensor:
    """The loss of every response token of a micro-batch, [N], not yet normalised; adds to the sums of the health line.

    A micro-batch of weight 0 is only there so that every rank makes equally many."""
    advantage, weight = piece["advantage"], piece["weight"]
    logprobs, entropy = policy.token_logprobs(model, **piece["inputs"])  # [N], [N]
    old = logprobs.detach() if piece["old"] is None else piece["old"]  # a single update: the ratio is 1, its gradient is not 0
    loss = policy_loss(logprobs, old, advantage, args.clip_low, args.clip_high)
    if args.beta:
        kl = kl_penalty(logprobs, piece["ref"], args.kl)
        loss = loss + args.beta * kl
        sums["kl"] += kl.detach().sum() * weight
    ratio = (logprobs.detach() - old).exp()
    clipped = torch.where(advantage > 0, ratio > 1 + args.clip_high, (ratio < 1 - args.clip_low) & (advantage < 0))
    for name, values in (("loss", loss.detach()), ("ratio", ratio), ("clipped", clipped), ("entropy", entropy),
                         ("sampler_gap", (logprobs.detach() - piece["sampled"]).abs())):
        sums[name] += values.sum() * weight
    return loss * weight


# ---------------------------------------------------------------------------------------------------------------------
# Logging


def health(groups: list[list[Rollout]]) -> dict[str, float]:
    """Means over the rollouts of all ranks: rewards, lengths, and the share of groups and columns that carry no signal."""
    batch = [rollout for group in groups for rollout in group]
    # for each anchor of each group: which different rewards its rollouts got there
    columns = [{r.step_rewards[i] for r in group if r.mask[i]} for group in groups for i in range(len(group[0].mask))]
    means = {  # name -> (sum, what it is divided by), both over this rank's rollouts
        "final_reward": (sum(r.final for r in batch), len(batch)),
        "step_reward": (sum(sum(r.step_rewards) for r in batch), sum(sum(r.mask) for r in batch)),
        "equal_groups": (sum(len({r.final for r in group}) == 1 for group in groups), len(groups)),
        "equal_columns": (sum(len(column) < 2 for column in columns), len(columns)),
        "cut": (sum(not r.sample.ended for r in batch), len(batch)),
        "tokens": (sum(len(r.sample.ids) for r in batch), len(batch))}
    sums = policy.all_sum(torch.tensor([*means.values()], dtype=torch.float64))  # [6, 2]
    return dict(zip(means, (sums[:, 0] / sums[:, 1].clamp(min=1)).tolist()))


WARNINGS = {  # the known ways in which a run dies, and what helps
    "no_spread": "in nearly every group all answers are equally right, so that nothing is learned from them. Take programs that the model "
                 "solves sometimes, or a larger --group",
    "no_entropy": "the policy hardly varies any more (below 0.005 nats a token): it explores nothing. Lower --lr, raise --temperature or --beta",
    "cut": "more than a tenth of the responses are cut at the length limit before their answer. Raise --max-tokens",
    "ratio": "pi / pi_old is not 1 on the first pass, where both are the same policy: the log-probabilities are computed wrongly",
    "kl": "more than 0.5 nats a token away from the initial model: the policy runs off. Lower --lr or raise --beta",
    "sampler_gap": "sampler and trainer disagree by more than 0.05 nats a token: one of them has old weights, or computes otherwise",
    "lost": "the sandbox lost the run of a committed input twice, which counts as wrong, right or not. Something kills its processes: is memory short?",
    "hacking": "right answers became more frequent while right steps became rarer: the model gets its answers without its trace, the "
               "reward hacking that step rewards are meant to stop. Read rollouts.jsonl"}


def warnings(records: list[dict]) -> list[str]:
    """Which of WARNINGS hold, from the metrics of the last steps (oldest first; the last 40 suffice)."""

    def mean(name: str, steps: list[dict]) -> float:
        return sum(record.get(name, 0.0) for record in steps) / len(steps)

    now, last, before = records[-1], records[-20:], records[-40:-20]
    holds = {"ratio": abs(now["first_ratio"] - 1) > 0.01, "sampler_gap": now["sampler_gap"] > 0.05, "lost": now["lost"] > 0}
    if len(records) >= 10:
        holds |= {"no_spread": mean("equal_groups", records[-10:]) > 0.95, "no_entropy": mean("entropy", records[-10:]) < 0.005,
                  "cut": mean("cut", records[-10:]) > 0.1, "kl": mean("kl", records[-10:]) > 0.5}
    if len(before) == 20:
        rise = {name: mean(name, last) - mean(name, before) for name in ("final_reward", "step_reward")}
        holds["hacking"] = rise["final_reward"] > 0.05 and rise["step_reward"] < -0.05
    return [name for name in WARNINGS if holds.get(name)]


def dump(path: Path, step: int, groups: list[list[Rollout]]) -> None:
    """Append every rollout of this step to the rollouts JSONL: predicted, true, reward and advantage per anchor.

    true: of the example's own input; an input prediction is judged by the run on the input that it commits to."""
    with policy.writing(path), path.open("a") as file:
        for group in groups:
            for g, rollout in enumerate(group):
                file.write(json.dumps({
                    "step": step, "id": rollout.example["id"], "rollout": g, "prompt": rollout.example["prompt"], "response": rollout.text,
                    "starts": rollout.starts, "token_advantage": [round(x, 4) for x in rollout.advantage.tolist()],
                    "true": rollout.example["anchors"], "predicted": [block.text for block in rollout.parsed.blocks], "mask": rollout.mask,
                    "step_rewards": rollout.step_rewards, "final_reward": rollout.final, "step_advantage": rollout.step_advantage,
                    "final_advantage": rollout.final_advantage, "ended": rollout.sample.ended}) + "\n")


def explain() -> None:
    """Print a worked group, [5 rollouts, 4 anchors], as a table to be read aloud."""
    names = ("rewards r", "A_group (Eq. 10)", "A_intra (Eq. 11)", "A = A_group + 0.3 A_intra (Eq. 12)")
    r = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]], dtype=torch.float64)
    final = torch.tensor([1, 1, 0, 0, 0], dtype=torch.float64)
    step, answer = bilevel_advantage(r, lam=0.3), group_advantage(final[:, None])[:, 0]
    print("Five rollouts of one prompt; four anchors, then the answer. 1 = right, 0 = wrong.")
    for name, table in zip(names, (r, group_advantage(r), intra_advantage(r), step)):
        print(f"\n{name:<38}" + "".join(f"anchor {i + 1:<4}" for i in range(4)))
        for g, row in enumerate(table):
            print(f"  rollout {g + 1:<28}" + "".join(f"{value:>8.3f}   " for value in row.tolist()))
    print("\nanswer                                r_final    A_final")
    for g in range(5):
        print(f"  rollout {g + 1:<28}{final[g]:>7.0f}{answer[g]:>11.3f}")
    print("\nWhat the tokens of rollout 2 carry: it got the first two anchors right, the last two wrong, and yet the right answer.")
    for i in range(4):
        print(f"  tokens of block {i + 1} (reasoning and print)   A_final + A[2,{i + 1}] = {answer[1]:+.3f} {step[1, i]:+.3f} = {answer[1] + step[1, i]:+.3f}")
    print(f"  all other tokens (the answer's too)       A_final          = {answer[1]:+.3f}")
    print("A terminal reward alone would push all its tokens by the same +1.225; step credit takes 1.225 off in block 3 and 0.816 in block 4, where the trace is wrong.")


# ---------------------------------------------------------------------------------------------------------------------
# The loop


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Bi-Level GRPO (arXiv 2605.11922).", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    # what
    add("--model", default="runs/sft/model", help="checkpoint folder or Hugging Face id to start from")
    add("--data", type=Path, default=Path("runs/toy/rl_examples.jsonl"), help="examples, JSONL from augment.py")
    add("--out", type=Path, default=Path("runs/rl"), help="folder for model, settings, metrics and rollouts")
    add("--explain", action="store_true", help="print a worked group and exit")
    # sampling
    add("--steps", type=policy.positive(int), default=320, help="batches of rollouts")
    add("--prompts", type=policy.positive(int), default=32, help="prompts per step, over all ranks")
    add("--group", type=policy.positive(int), default=8, help="G, rollouts per prompt (the paper: 5)")
    add("--temperature", type=policy.positive(float), default=1.0, help="divides the logits in sampler and trainer alike")
    add("--max-tokens", type=policy.positive(int), default=256, help="length limit of a response (the paper: 4096)")
    add("--sampler", choices=["auto", "vllm", "transformers"], default="auto", help="auto: vllm where it is installed and there is a GPU")
    add("--sampler-memory", type=policy.positive(float), default=0.4, help="vLLM's share of the GPU's memory while it samples")
    add("--max-gap", type=policy.positive(float), default=0.1, help="stop where sampler and trainer differ by more, in nats a token")
    add("--sample-rows", type=policy.positive(int), default=policy.ROWS, help="responses sampled at a time (transformers)")
    # the method
    add("--advantage", choices=["bilevel", "terminal"], default="bilevel", help="terminal drops the step term: plain GRPO (the paper's Table 5)")
    add("--lam", type=policy.positive(float, or_zero=True), default=0.3, help="weight of A_intra in Eq. 12 (the paper: 0.3); 0 is the paper's Step-GRPO")
    add("--norm", choices=["std", "none"], default="std", help="none leaves the std out of Eq. 10 and of A_final (the paper: std)")
    add("--center-intra", action="store_true", help="subtract the group's mean from A_intra (the paper does not)")
    add("--clip-low", type=policy.positive(float, or_zero=True), default=0.2, help="clip the ratio below 1 - this (the paper prints no clip)")
    add("--clip-high", type=policy.positive(float, or_zero=True), default=0.2, help="clip the ratio above 1 + this (the paper prints no clip)")
    add("--beta", type=policy.positive(float, or_zero=True), default=0.001, help="weight of the KL of Eq. 15 (the paper states none); 0 needs no reference model")
    add("--kl", choices=["k3", "k2"], default="k3", help="estimator of the KL of Eq. 15 (the paper names none)")
    # optimization
    add("--optimizer", choices=["muon", "adamw"], default="adamw", help="muon trains the toy's matrices faster, adamw fine-tunes a real model")
    add("--lr", type=policy.positive(float), default=1e-3, help="peak learning rate, then linear to zero (the paper: 1e-6 at 7B)")
    add("--updates", type=policy.positive(int), default=1, help="optimizer steps on each batch of rollouts (the paper is silent)")
    add("--max-grad-norm", type=policy.positive(float), default=1.0, help="a longer gradient is shortened to this")
    add("--token-budget", type=policy.positive(int), default=8192, help="tokens per micro-batch, padding counted")
    add("--checkpointing", action="store_true", help="activation checkpointing: a third more work, far less memory")
    # bookkeeping
    add("--dump-every", type=policy.positive(int), default=10, help="steps between dumps of all rollouts (of several ranks: of the first one's)")
    add("--save-every", type=policy.positive(int), default=10, help="steps between checkpoints")
    add("--keep", type=policy.positive(int), default=2, help="checkpoints kept")
    add("--fresh", action="store_true", help="start again, without the checkpoints in --out")
    add("--seed", type=policy.positive(int, or_zero=True), default=0, help="of the order of examples and of all that is sampled")
    return parser


@policy.memory_errors()
def main() -> None:
    args = build_parser().parse_args()
    if args.explain:
        return explain()
    rank, world = policy.start_ranks()
    if args.prompts < world or args.group < 2:
        policy.fail(f"--prompts must be at least the number of ranks ({world}) and --group at least 2")
    examples = policy.read_jsonl(args.data, ("id", "prompt", "anchors", "output", "task", "instrumented", "call"))
    args.sampler = policy.choose_sampler(args.sampler)  # a run goes on with the sampler that it began with
    run = policy.Run(args)
    model, tokenizer = policy.load(run.weights)
    prompts = policy.encode_prompts(tokenizer, [example["prompt"] for example in examples])
    fitting = [index for index, prompt in enumerate(prompts) if policy.fits(model, prompt, args.max_tokens)]
    if len(fitting) < len(examples):
        policy.say(f"{args.data}: {len(examples) - len(fitting)} of {len(examples)} prompts do not fit the context with --max-tokens "
                   f"{args.max_tokens}; left out")
    if not fitting:
        policy.fail(f"{args.data}: no prompt is left to train on")
    longest = max(len(prompts[index]) for index in fitting) + args.max_tokens
    examples = [examples[index] for index in fitting]
    sampler = policy.make_sampler(args.sampler, run.weights, model, tokenizer, longest, args.sample_rows, args.sampler_memory)
    model = policy.shard(model, args.checkpointing)
    reference = policy.shard(policy.load(args.model)[0].eval()) if args.beta else None
    optimizers = policy.make_optimizers(model, args.optimizer, args.lr)
    run.restore(model, optimizers)
    bar = run.steps(args.steps, "bi-level GRPO")
    for step in bar:
        start = time.time()
        policy.seed_step(args.seed, step)
        places = range(rank, args.prompts, world)  # this rank's share of the prompts; a group is never split
        indices = policy.batch_indices(step, args.prompts, len(examples), args.seed)
        sampler.load(model)
        groups = roll_out(sampler, tokenizer, [examples[indices[p]] for p in places], [(args.seed, step, p) for p in places], args)
        sampled = time.time()
        lost = score(groups)
        for group in groups:
            assign_credit(group, args)
        scored = time.time()
        record = {"step": step, "lr": policy.learning_rate(step, args.steps, args.lr, warmup=5)} | health(groups)
        record["lost"], resampled = policy.all_sum(torch.tensor([lost, sampler.retries])).tolist()
        record |= update(model, optimizers, reference, [rollout for group in groups for rollout in group], record["lr"], args)
        record["retries"] += resampled
        record["warnings"] = warnings([*run.recent, record])
        before = run.recent[-1]["warnings"] if run.recent else []
        for name in record["warnings"]:
            if name not in before:  # said in the step in which it begins to hold
                policy.say(f"step {step}: {WARNINGS[name]}")
        record["timing"] = {"sample_s": sampled - start, "score_s": scored - sampled, "train_s": time.time() - scored}
        run.log(record)
        if rank == 0 and (step % args.dump_every == 0 or step == args.steps - 1):
            dump(args.out / "rollouts.jsonl", step, groups)
        run.save(step + 1, model, tokenizer, optimizers)
        bar.set_postfix_str(" ".join(f"{name} {record[name]:.3f}" for name in ("final_reward", "step_reward", "entropy", "sampler_gap")))
    run.finish(model, tokenizer)


if __name__ == "__main__":
    main()
