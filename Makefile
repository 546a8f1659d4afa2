# PYTHON=.venv/bin/python make check
PYTHON ?= python
RUN = $(PYTHON) -m

.PHONY: lint types test check full gpu documents demo demo-fleet

lint:  ## style, and that imports run one way
	$(RUN) ruff check .
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as main; main()"

types:
	$(RUN) mypy

test:  ## the fast tests
	$(RUN) pytest -m "not slow and not gpu and not full"

check: lint  ## everything that needs no GPU, the types among it (tests/test_types.py): what .ci/run runs
	$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu and not full"

full:  ## what takes minutes each: figures at full size, long fault runs
	$(RUN) pytest -m "full and not gpu"

gpu:  ## on a machine with GPUs: tests marked gpu, the network's figures, the whole pipeline's; fails where one is missed
	$(RUN) pytest -m gpu
	$(RUN) models.benchmark.gpu_check --json gpu-check.json
	$(RUN) jobs.benchmark --what gpu --json gpu-pipeline.json

documents:  ## the parts of documents that are made from the code
	$(RUN) tests.documents

demo-fleet:  ## six drives, one of them bad, through an S3 server and a Ray head of their own
	$(PYTHON) cluster/demo_fleet.py

demo:  ## the main job on its embedded default
	$(RUN) jobs.reconstruct --overwrite
