# Every target makes the environment first if it is not there (Python 3.11 and pip are all it takes).
RUN = python3 scripts/with_env.py

.PHONY: train test test-slow lint format types lock ci

train:           ## the main job on the embedded data set
	$(RUN) python train.py

test:            ## the default suite
	$(RUN) pytest

test-slow:       ## minutes each; SEGKIT_CAMVID=<folder> adds those on real images
	$(RUN) pytest -m slow

lint:
	$(RUN) ruff check
	$(RUN) ruff format --check

format:
	$(RUN) ruff check --fix
	$(RUN) ruff format

types:
	$(RUN) pyright

lock:            ## resolve the dependencies anew (needs uv); hashes and versions, no addresses
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header -o requirements.lock

ci:
	bash .ci/run
