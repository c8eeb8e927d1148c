# Everything runs in .venv, which `make setup` makes; nothing else has to be installed before.
# PYTHON=/path/to/python chooses the interpreter (3.11 to 3.13).

.DEFAULT_GOAL := help
.PHONY: help setup demo pipeline tensorboard test lint bench bench-train bench-settings bench-rnn bench-style bench-stylizer bench-serve bench-push bench-client soak clean

export TF_CPP_MIN_LOG_LEVEL := 2

# The user's choice alone, if there is one.
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)
VENV := .venv/bin

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' \
		| while IFS="$$(printf '\t')" read -r target text; do printf '%-12s %s\n' "$$target" "$$text"; done

setup: .venv/.installed ## make .venv with everything that the demo and the tests need (once)

.venv/.installed: setup.py
	@for python in $(CANDIDATES); do \
		if "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
			found="$$python"; break; \
		fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "error: no Python 3.11, 3.12 or 3.13 (tried: $(CANDIDATES)); install one, or run: make setup PYTHON=/path/to/python3.11" >&2; \
		exit 2; \
	fi; \
	echo "making .venv with $$found: about 3 GB, a minute or more"; \
	"$$found" -m venv --clear .venv
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -e '.[all]'
	@touch $@

demo: setup ## train on digits, export, serve, ask; writes demo/gallery.png and demo/summary.json
	$(VENV)/python -m serving.demo_main --out_dir=demo

pipeline: setup ## the whole line for a small classifier of digits, into pipeline/; again: skips what has not changed
	$(VENV)/python -m train.pipeline_main --config=cnn_digits --base=pipeline

RUNS := runs
tensorboard: setup ## losses, pictures, sounds and learnt spaces of the runs in RUNS=<folder>
	$(VENV)/tensorboard --logdir=$(RUNS)

lint: setup ## ruff and mypy
	$(VENV)/ruff check .
	$(VENV)/mypy

test: setup lint ## lint, then all tests
	$(VENV)/python -m pytest -q -n 2 --dist=worksteal

bench: bench-train bench-rnn bench-style bench-stylizer bench-serve bench-client ## all benchmarks

bench-train: .venv/.torch ## training steps against PyTorch and keras.io's examples, and the loop itself (a quarter of an hour)
	$(VENV)/python tests/bench/train_bench.py

DATA_DIR :=
bench-settings: setup ## the trainer's speed switches, with the data in DATA_DIR=<folder> (half an hour)
	$(VENV)/python tests/bench/settings_bench.py --data_dir=$(DATA_DIR)

bench-rnn: .venv/.torch ## the language model's writing and training against PyTorch
	$(VENV)/python tests/bench/rnn_bench.py

.venv/.torch: .venv/.installed
	$(VENV)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@touch $@

bench-style: .venv/.torch ## style transfer against PyTorch and the keras.io example (two hours of one core)
	$(VENV)/python tests/bench/style_bench.py

bench-stylizer: setup ## the stylizer against optimisation (20 minutes; all pairs: --every=1, an hour)
	$(VENV)/python tests/bench/stylizer_bench.py

bench-serve: setup ## the model server against the same signatures called in process
	$(VENV)/python tests/bench/serve_bench.py

bench-push: setup ## 50 pushes and rollbacks under 50 clients (a quarter of an hour)
	$(VENV)/python tests/bench/serve_bench.py push

bench-client: setup ## the client beside tensorflow-serving-api, ovmsclient and REST
	$(VENV)/python tests/bench/client_bench.py

soak: setup ## an hour at half load: the server's memory, threads and descriptors
	$(VENV)/python tests/bench/serve_bench.py soak

clean: ## remove what the tools made here; runs/, models/ and pipeline/ are yours and stay
	rm -rf .venv build *.egg-info demo .pytest_cache .mypy_cache .ruff_cache
	find zoo train serving tests -name __pycache__ -type d -prune -exec rm -rf {} +
