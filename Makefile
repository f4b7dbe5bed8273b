# make demo | test | test-slow: each makes .venv and installs requirements.txt first, if that has not been done.

PYTHON ?= python3
DEMO ?= runs/demo
TASK ?= output
SEED ?= 0
RUN = .venv/bin/python

# On Linux the package index's torch brings gigabytes of CUDA; without an NVIDIA driver take PyTorch's own CPU build.
CPU_TORCH = --index-url https://download.pytorch.org/whl/cpu --retries 0
NEEDS_CPU_TORCH = [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi > /dev/null

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	if $(NEEDS_CPU_TORCH); then .venv/bin/pip install -q $(CPU_TORCH) "$$(grep '^torch==' requirements.txt)" || true; fi
	.venv/bin/pip install -q -r requirements.txt
	touch $@

demo: .venv/installed
	$(RUN) toy.py --out $(DEMO)/toy --seed $(SEED)
	for part in sft rl test; do $(RUN) augment.py --programs $(DEMO)/toy/$$part.jsonl --out $(DEMO)/toy/$${part}_examples.jsonl \
		--task $(TASK) --prompt bare || exit; done
	$(RUN) sft.py --model $(DEMO)/toy/model --data $(DEMO)/toy/sft_examples.jsonl --out $(DEMO)/sft --seed $(SEED)
	$(RUN) bigrpo.py --model $(DEMO)/sft/model --data $(DEMO)/toy/rl_examples.jsonl --out $(DEMO)/rl --seed $(SEED)

test: .venv/installed
	$(RUN) -m pytest -q -m "not slow" tests

test-slow: .venv/installed
	$(RUN) -m pytest -q -m slow tests
	$(RUN) tests/mutations.py

.PHONY: demo test test-slow
