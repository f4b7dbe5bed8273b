"""Break each formula of bigrpo.py and policy.py on purpose; a test must fail for every one.

    python tests/mutations.py            # all; prints a table, exits with 1 if a broken formula passes the tests
    python tests/mutations.py clip kl    # those whose name contains one of these words

A mutation is a replacement of text in a copy of the project in a temporary folder. Its pattern must occur exactly once, so that
an edit of the code cannot silently turn a mutation into nothing. Torch and transformers are imported once; each mutation
is tested in a fork, which imports the copy.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("tests/test_bigrpo.py", "tests/test_policy.py")
RANKS = "test_one_rank_and_two_ranks_learn_the_same"  # slow, so it runs only where nothing else can see the mutation

BIGRPO = [  # (what is broken, pattern, replacement)
    # Eq. 10
    ("group: sign", "deviation = (rewards - mean) * mask", "deviation = (mean - rewards) * mask"),
    ("group: sum for mean", "mean = (rewards * mask).sum(0) / count.clamp(min=1)", "mean = (rewards * mask).sum(0)"),
    ("group: mask ignored in the sum", "mean = (rewards * mask).sum(0)", "mean = rewards.sum(0)"),
    ("group: mask ignored in the count", "count = mask.sum(0)  # [n]", "count = torch.ones_like(mask).sum(0)"),
    ("group: mask ignored in the deviation", "deviation = (rewards - mean) * mask", "deviation = (rewards - mean)"),
    ("group: mean over all anchors", "mean = (rewards * mask).sum(0) / count.clamp(min=1)", "mean = (rewards * mask).sum() / count.sum()"),
    ("group: sample std", "deviation.square().sum(0) / count.clamp(min=1)", "deviation.square().sum(0) / (count - 1).clamp(min=1)"),
    ("group: variance for std", "(deviation.square().sum(0) / count.clamp(min=1)).sqrt()", "(deviation.square().sum(0) / count.clamp(min=1))"),
    ("group: eps inside the root", '"std": std + eps', '"std": (std.square() + eps).sqrt()'),
    ("group: eps forgotten", '"std": std + eps', '"std": std'),
    ("group: branch on the std removed", "torch.where(std < 1e-3, 0.0, deviation / scale)", "deviation / scale"),
    ("group: branch on the std too wide", "torch.where(std < 1e-3,", "torch.where(std < 0.2,"),
    ("group: norm none ignored", '"none": 1.0', '"none": std + eps'),
    # Eq. 11
    ("intra: future mean includes i", "later = known.sum(1, keepdim=True) - known.cumsum(1)", "later = known.sum(1, keepdim=True) - known.cumsum(1) + known"),
    ("intra: future count includes i", "count = mask.sum(1, keepdim=True) - mask.cumsum(1)", "count = mask.sum(1, keepdim=True) - mask.cumsum(1) + mask"),
    ("intra: past for future", "later = known.sum(1, keepdim=True) - known.cumsum(1)", "later = known.cumsum(1) - known"),
    ("intra: sum for mean", "later / count.clamp(min=1)", "later"),
    ("intra: mask ignored in the sum", "known = rewards * mask", "known = rewards"),
    ("intra: mask ignored in the count", "count = mask.sum(1, keepdim=True) - mask.cumsum(1)",
     "count = torch.ones_like(mask).sum(1, keepdim=True) - torch.ones_like(mask).cumsum(1)"),
    ("intra: r_i dropped", "intra = known * (1 + ", "intra = mask * (1 + "),
    ("intra: 1 + dropped", "intra = known * (1 + ", "intra = known * ("),
    ("intra: centred by the row", "intra.sum(0) / mask.sum(0).clamp(min=1)", "intra.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)"),
    ("intra: mask ignored in the centre", "intra.sum(0) / mask.sum(0).clamp(min=1)", "intra.mean(0)"),
    ("intra: centred behind the mask", "clamp(min=1)) * mask", "clamp(min=1))"),
    # Eq. 12
    ("bilevel: lam on the wrong term", "group_advantage(step_rewards, mask, norm=norm) + lam * intra", "lam * group_advantage(step_rewards, mask, norm=norm) + intra"),
    ("bilevel: minus", "norm=norm) + lam *", "norm=norm) - lam *"),
    ("bilevel: mask lost on the way to A_group", "group_advantage(step_rewards, mask, norm", "group_advantage(step_rewards, None, norm"),
    ("bilevel: mask lost on the way to A_intra", "intra_advantage(step_rewards, mask, center", "intra_advantage(step_rewards, None, center"),
    # what is refused
    ("checks: NaN let through", "if not torch.isfinite(rewards).all()", "if torch.isinf(rewards).any()"),
    ("checks: infinity let through", "if not torch.isfinite(rewards).all()", "if torch.isnan(rewards).any()"),
    ("checks: a lone rollout let through", "rewards.shape[0] < 2", "rewards.shape[0] < 1"),
    ("checks: any mask let through", "mask is not None and mask.shape != rewards.shape", "False"),
    # tokens
    ("tokens: block by its last character, off by one", "torch.bucketize(starts, end, right=True)", "torch.bucketize(starts, end, right=False)"),
    ("tokens: block index shifted", "return torch.where(inside, block, n)", "return torch.where(inside, (block + 1).clamp(max=n), n)"),
    ("tokens: gaps between blocks credited", " & (starts >= begin[block.clamp(max=len(end) - 1)])", ""),
    ("tokens: extra blocks credited to the last", "[(block.start, block.end) for block in rollout.parsed.blocks]",
     "[(b.start, rollout.parsed.blocks[-1].end if i == len(rollout.mask) - 1 else b.end) for i, b in enumerate(rollout.parsed.blocks)]"),
    ("tokens: A_final missing everywhere", "final[rollout] + padded[rollout, block]", "padded[rollout, block]"),
    ("tokens: A_final missing in blocks", "final[rollout] + padded[rollout, block]",
     "torch.where(block < step.shape[1], 0.0, final[rollout]) + padded[rollout, block]"),
    ("tokens: A missing", "final[rollout] + padded[rollout, block]", "final[rollout]"),
    ("tokens: another rollout's credit", "torch.full_like(block, g)", "torch.zeros_like(block)"),
    # Eqs. 13-15
    ("clip: sign", "return -torch.minimum(", "return torch.minimum("),
    ("clip: max for min", "-torch.minimum(ratio * advantage", "-torch.maximum(ratio * advantage"),
    ("clip: min before the product", "torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)",
     "torch.minimum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high)) * advantage"),
    ("clip: none", "ratio.clamp(1 - clip_low, 1 + clip_high)", "ratio"),
    ("clip: cut on both sides", "torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)",
     "(ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)"),
    ("clip: sides exchanged", "ratio.clamp(1 - clip_low, 1 + clip_high)", "ratio.clamp(1 - clip_high, 1 + clip_low)"),
    ("clip: ratio upside down", "ratio = (logprobs - old).exp()\n    return", "ratio = (old - logprobs).exp()\n    return"),
    ("clip: ratio without exp", "ratio = (logprobs - old).exp()\n    return", "ratio = 1 + (logprobs - old)\n    return"),
    ("kl: reversed", "d = reference - logprobs", "d = logprobs - reference"),
    ("kl: k2 and k3 mixed up", '"k3": d.exp() - d - 1, "k2": d.square() / 2', '"k2": d.exp() - d - 1, "k3": d.square() / 2'),
    ("kl: k1 for k3", "d.exp() - d - 1", "-d"),
    ("kl: k2 without the half", "d.square() / 2", "d.square()"),
    # one group
    ("group of rollouts: step term kept at n = 1", "step.shape[1] < 2", "step.shape[1] < 1"),
    ("group of rollouts: step term dropped at n = 2", "step.shape[1] < 2", "step.shape[1] < 3"),
    ("group of rollouts: terminal ignored", 'args.advantage == "terminal" or', "False or"),
    ("group of rollouts: lam ignored", "bilevel_advantage(step, mask, args.lam,", "bilevel_advantage(step, mask, 0.3,"),
    ("group of rollouts: mask ignored", "bilevel_advantage(step, mask, args", "bilevel_advantage(step, None, args"),
    ("group of rollouts: norm ignored for the answer", "group_advantage(final, norm=args.norm)", "group_advantage(final)"),
    ("group of rollouts: center-intra ignored", "args.norm, args.center_intra)", "args.norm)"),
    # one update
    ("update: mean per micro-batch", "(loss.sum() / total).backward()", "loss.mean().backward()"),
    ("update: sum for mean", "(loss.sum() / total).backward()", "loss.sum().backward()"),
    ("update: denominator per rollout", "float(sum(len(rollout.sample.ids) for rollout in batch))", "float(len(batch))"),
    ("update: prompts in the denominator", "float(sum(len(rollout.sample.ids) for", "float(sum(len(rollout.prompt + rollout.sample.ids) for"),
    ("update: denominator per rank (2 ranks)", "total = policy.all_sum(torch.tensor(float(", "total = (torch.tensor(float("),
    ("update: padding micro-batches counted (2 ranks)", 'piece["weight"] = 0.0', 'piece["weight"] = 1.0'),
    ("update: no step without any advantage", 'pieces[0]["learns"] = True', "pass"),
    ("update: metrics not summed (2 ranks)", "policy.all_sum(torch.stack([*sums.values()]))", "torch.stack([*sums.values()])"),
    ("update: gradient limit ignored", "optimizer_step(model, optimizers, lr, args.max_grad_norm)", "optimizer_step(model, optimizers, lr, 1e9)"),
    ("update: gradient limited per micro-batch", "(loss.sum() / total).backward()",
     "(loss.sum() / total).backward(); torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)"),
    ("update: old log-probabilities not detached", "old = logprobs.detach() if", "old = logprobs if"),
    ("update: old log-probabilities renewed each time", "if args.updates > 1 else None", "if args.updates > 9 else None"),
    ("update: reference is the policy", "policy.token_logprobs(reference, **inputs)", "policy.token_logprobs(model, **inputs)"),
    ("update: KL subtracted", "loss = loss + args.beta * kl", "loss = loss - args.beta * kl"),
    ("update: beta ignored", "loss = loss + args.beta * kl", "loss = loss + kl"),
    ("update: k2 never chosen", 'piece["ref"], args.kl)', 'piece["ref"])'),
    ("update: temperature missing", '"temperature": args.temperature}', '"temperature": 1.0}'),
    ("update: clipped share on the wrong side", "ratio > 1 + args.clip_high, (", "ratio < 1 - args.clip_low, ("),
    ("update: metrics not per update", "for one in passes) / args.updates", "for one in passes)"),
    ("update: sampler's log-probabilities not compared", '(logprobs.detach() - piece["sampled"]).abs()', 'piece["sampled"].abs()'),
]

POLICY = [
    ("decode: start by the last character", "text, pending, before = text + after, [], \"\"",
     "text, pending, before, starts[-1] = text + after, [], \"\", len(text + after)"),
    ("decode: end token in the text", "for token in ids[:-1] if ended else ids:", "for token in ids:"),
    ("end tokens: generation config ignored", "named = model.generation_config.eos_token_id", "named = None"),
    ("decode: half characters decoded at once", "if after.endswith(INCOMPLETE):", "if False:"),
    ("optimizer: gradients never cleared", "optimizer.zero_grad()", "pass"),
    ("optimizer: gradient limit ignored", "clip_grad_norm_(model.parameters(), max_grad_norm)", "clip_grad_norm_(model.parameters(), 1e9)"),
    ("optimizer: NaN gradient let through", "if not math.isfinite(norm):", "if False:"),
    ("optimizer: learning rate ignored", 'settings["lr"] = lr', "pass"),
    ("optimizer: embedding to Muon", ' and ".layers." in key', ""),
    ("optimizer: a weight held twice", "if all(weight is not matrix for matrix in matrices)]", "]"),
    ("micro-batches: budget exceeded by one row", "(len(rows) + 1) * width > token_budget", "len(rows) * width > token_budget"),
    ("micro-batches: one row less than fits", "width > token_budget", "width >= token_budget"),
    ("micro-batches: last one lost", "return batches + [rows] if rows else batches", "return batches"),
    ("log-probabilities: mask off by one, one token early", "torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)",
     "torch.arange(len(prompt) - 2, len(prompt) + len(response) - 2).clamp(min=0)"),
    ("log-probabilities: first token lost", "torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)",
     "torch.arange(len(prompt), len(prompt) + len(response) - 1)"),
    ("log-probabilities: last token lost", "len(prompt) + len(response) - 1)\n", "len(prompt) + len(response) - 2)\n"),
    ("log-probabilities: token predicts itself", "torch.arange(len(prompt) - 1, len(prompt) + len(response) - 1)",
     "torch.arange(len(prompt), len(prompt) + len(response))"),
    ("log-probabilities: mask by token value", "return torch.cat([logprobs for logprobs, _ in parts]),",
     "return torch.cat([logprobs for logprobs, _ in parts]) * (targets != model.config.pad_token_id),"),
    ("log-probabilities: temperature missing", "(model.lm_head(hidden).float() / temperature)", "(model.lm_head(hidden).float())"),
    ("log-probabilities: temperature upside down", "(model.lm_head(hidden).float() / temperature)", "(model.lm_head(hidden).float() * temperature)"),
    ("log-probabilities: entropy's sign", "entropy = -(", "entropy = ("),
    ("log-probabilities: padded on the left", "for row in rows], batch_first=True)", "for row in rows], batch_first=True, padding_side='left')"),
    ("shared prompts: positions off by one", "positions = mask.sum(1, keepdim=True) +", "positions = mask.sum(1, keepdim=True) - 1 +"),
    ("shared prompts: keys and values of another one", "cache.reorder_cache(which)", "cache.reorder_cache(which.flip(0))"),
    ("shared prompts: their gradient cut off", "states, mask = [first[which, None]]", "states, mask = [first[which, None].detach()]"),
    ("sampler: temperature missing", "(logits.float() / (temperature or 1.0))", "(logits.float())"),
    ("sampler: temperature in the draw only", "return token, logprobs.gather", "return token, logits.float().log_softmax(-1).gather"),
    ("sampler: padding seen", "<= last[:, None]).long()", "<= last[:, None] + ids.shape[1]).long()"),
    ("sampler: positions off by one after the prompt", "position = mask.sum(1, keepdim=True)", "position = (mask.sum(1, keepdim=True) - 1)"),
    ("sampler: one stream for all rollouts of a prompt", "default_rng([*seeds[p], rollout])", "default_rng([*seeds[p]])"),
    ("sampler: stream by place in the batch", "default_rng([*seeds[p], rollout])", "default_rng([chosen.index(p), rollout])"),
    ("sampler: streams not dropped with their rows", "uniforms.view(rows, c, -1)[alive, :, t]", "uniforms.view(rows, c, -1)[:len(alive), :, t]"),
    ("sampler: responses of a row see each other", "own = torch.eye(c, ", "own = torch.ones(c, c, "),
    ("sampler: responses of a row share a stream", "uniforms.view(rows, c, -1)[alive, :, t]", "uniforms.view(rows, c, -1)[alive, :1, t].expand(-1, c)"),
    ("sampler: end token lost", "lengths[alive].clamp(max=t + 1)", "lengths[alive].clamp(max=t)"),
    ("sampler: results in sorted order", "results[p] = rows[i * n:(i + 1) * n]", "results[sum(map(len, batches[:batches.index(chosen)])) + i] = rows[i * n:(i + 1) * n]"),
]


def mutate(folder: Path, file: str, pattern: str, replacement: str) -> None:
    """A copy of the project's scripts and of the two test files in `folder`, with one replacement."""
    (folder / "tests").mkdir()
    for path in [*ROOT.glob("*.py"), ROOT / "pyproject.toml", *(ROOT / test for test in TESTS)]:
        shutil.copy(path, folder / path.relative_to(ROOT))
    text = (folder / file).read_text(encoding="utf-8")
    (folder / file).write_text(text.replace(pattern, replacement), encoding="utf-8")


def run_tests(folder: Path, tests: list[str]) -> str:
    """The output of pytest -x on these tests, run in a fork that imports the scripts in `folder`."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        output = os.open("output", os.O_WRONLY | os.O_CREAT)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.path[:0] = [str(folder)]
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--tb=line", f"--rootdir={folder}", *tests]))
    os.waitpid(child, 0)
    return (folder / "output").read_text(encoding="utf-8")


def caught(file: str, name: str, pattern: str, replacement: str) -> str | None:
    """The test that fails once `pattern` is replaced in `file`, or None."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve()
        mutate(folder, file, pattern, replacement)
        tests = sorted(TESTS, key=lambda test: file not in test)  # the file's own tests first
        select = [f"{TESTS[0]}::{RANKS}"] if "(2 ranks)" in name else [*tests, f"--deselect={TESTS[0]}::{RANKS}"]
        output = run_tests(folder, select)
    if "NameError" in output:
        raise SystemExit(f"error: the mutation '{name}' names what is not there, which proves nothing:\n{output}")
    failed = re.search(r"^FAILED \S+::(\S+)", output, re.MULTILINE)
    if failed:
        return failed.group(1)
    if not re.search(r"^\d+ passed", output, re.MULTILINE):  # an error before any test is no proof
        raise SystemExit(f"error: the tests did not run under the mutation '{name}':\n{output}")
    return None


def main(words: list[str]) -> None:
    mutations = [("bigrpo.py", *mutation) for mutation in BIGRPO] + [("policy.py", *mutation) for mutation in POLICY]
    for file, name, pattern, _ in mutations:
        if (count := (ROOT / file).read_text(encoding="utf-8").count(pattern)) != 1:
            raise SystemExit(f"error: {file} holds the pattern of '{name}' {count} times, not once; adapt tests/mutations.py:\n{pattern}")
    if found := caught("bigrpo.py", "nothing", "import", "import"):
        raise SystemExit(f"error: {found} fails already without a mutation")
    chosen = [mutation for mutation in mutations if not words or any(word in mutation[1] for word in words)]
    start, survivors = time.time(), []
    for file, name, pattern, replacement in chosen:
        test = caught(file, name, pattern, replacement)
        survivors += [name] if test is None else []
        print(f"{file:<10} {name:<55} {test or 'SURVIVED'}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutations caught in {time.time() - start:.0f} s")
    if survivors:
        raise SystemExit("error: no test fails for: " + "; ".join(survivors))


if __name__ == "__main__":
    if "FORKED" not in os.environ:  # one thread: a fork of a process with a pool of threads may hang
        os.environ |= {"FORKED": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    import pytest  # noqa: I001, imported here once for all forks
    import torch  # noqa: F401
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401
    import transformers.models.qwen2.tokenization_qwen2  # noqa: F401

    main(sys.argv[1:])
