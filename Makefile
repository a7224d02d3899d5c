# The two commands that matter: `make serve` and `make test`. Both set up what they need.

MODEL ?= examples/digits/torch-zip
PORT  ?= 5001
FLAVOUR ?= cpu
ENDPOINT ?= loadstone
DEPLOYMENT ?= blue
REQUEST ?= examples/digits/request.json
PYTHON ?= python3.11

VENV := .venv
# Python compiles what is imported when it is; all at once would take longer than the rest. In a terminal, pip shows how
# far it is.
PIP := pip install --disable-pip-version-check --no-compile $(shell test -t 2 || echo --quiet)
READY := $(VENV)/.ready
EXAMPLE := examples/digits/request.json
AZURE := .cache/azure
LIBRARIES := .cache/torchvision
DOCS := .cache/docs
CLIENTS := .cache/clients
RAY := .cache/ray

.PHONY: help setup serve image run-image image-test azure-test clients-test ray-test balancer-test browser-test docs notebook notebook-test deploy deploy-local smoke logs delete test test-slow test-transformers test-quantised test-deepspeed test-megatron test-yolo test-blocks test-openmmlab fuzz soak lint format example bench bench-recognise lock lock-image fingerprints test-torchvision clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(READY)  ## the virtual environment, with the pinned dependencies

$(READY): requirements.lock requirements-dev.lock pyproject.toml score/__init__.py
	test -x $(VENV)/bin/python || $(or $(shell command -v $(PYTHON)),python3) -m venv $(VENV)
	$(VENV)/bin/$(PIP) -r requirements-dev.lock
	$(VENV)/bin/$(PIP) --no-deps --editable .
	touch $@

# Environments of their own, for what conflicts with the server's pins or is large.
$(AZURE)/.ready: tests/azure/requirements.lock
$(DOCS)/.ready: docs/requirements.lock
$(LIBRARIES)/.ready: tests/torchvision/requirements.lock

# MLServer's package carries the Open Inference Protocol's own description; nothing of it is run, and so nothing that it
# needs is installed.
$(CLIENTS)/.ready: tests/clients/requirements.lock | $(READY)
	test -x $(CLIENTS)/bin/python || $(VENV)/bin/python -m venv $(CLIENTS)
	$(CLIENTS)/bin/$(PIP) -r $<
	$(CLIENTS)/bin/$(PIP) --no-deps mlserver==1.7.1
	touch $@

# Ray's packages go before the server's, which bring torch and this project.
$(RAY)/.ready: tests/ray/requirements.lock | $(READY)
	test -x $(RAY)/bin/python || $(VENV)/bin/python -m venv $(RAY)
	$(RAY)/bin/$(PIP) -r $<
	for place in $(RAY)/lib/python3*/site-packages; do printf '%s\n' $(CURDIR)/$(VENV)/lib/python3*/site-packages $(CURDIR) > $$place/loadstone.pth; done
	touch $@

.cache/%/.ready: | $(READY)
	test -x .cache/$*/bin/python || $(VENV)/bin/python -m venv .cache/$*
	.cache/$*/bin/$(PIP) -r $(filter %.lock,$^)
	touch $@

AZ = $(VENV)/bin/python tools/azure.py --endpoint $(ENDPOINT) --deployment $(DEPLOYMENT)

deploy: $(READY) $(EXAMPLE)  ## MODEL to ENDPOINT on Azure ML; REGISTRY=... has the image, FLAVOUR=gpu takes the GPU's
	$(AZ) --flavour $(FLAVOUR) --registry "$(REGISTRY)" --model $(MODEL) deploy

deploy-local: $(READY) $(EXAMPLE)  ## the same in Docker on this machine, with az's --local
	$(AZ) --local --flavour $(FLAVOUR) --registry "$(REGISTRY)" --model $(MODEL) deploy

smoke: $(READY) $(EXAMPLE)  ## send REQUEST to ENDPOINT and check that predictions come back
	$(AZ) --request $(REQUEST) smoke

logs: $(READY)  ## the last lines of ENDPOINT's log: a failed start ends with the diagnosis
	$(AZ) logs

delete: $(READY)  ## delete ENDPOINT and its deployments
	$(AZ) delete

example: $(EXAMPLE)  ## train the example once, and save it in every format

$(EXAMPLE): examples/train_digits.py models/digits_cnn.py | $(READY)
	$(VENV)/bin/python examples/train_digits.py

serve: $(READY) $(if $(findstring examples/digits,$(MODEL)),$(EXAMPLE))  ## serve MODEL on PORT (default: the example)
	$(VENV)/bin/score serve $(MODEL) --port $(PORT)

image: $(READY)  ## build the image, FLAVOUR=cpu or gpu; TORCH_INDEX=... names torch's index for CPU builds
	$(VENV)/bin/python tools/image.py --flavour $(FLAVOUR) build

run-image: $(READY) $(if $(findstring examples/digits,$(MODEL)),$(EXAMPLE))  ## serve MODEL on PORT from the image
	$(VENV)/bin/python tools/image.py --flavour $(FLAVOUR) run $(MODEL) --port $(PORT)

azure-test: $(AZURE)/.ready  ## load every YAML file with azure-ai-ml's own loaders, in an environment of its own
	$(AZURE)/bin/python tests/azure/loaders.py

docs: $(DOCS)/.ready  ## the site, in build/site; fails on a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict

notebook: $(READY)  ## run examples/digits.ipynb, and keep what it shows in it
	$(VENV)/bin/python -m tools.notebook

notebook-test: $(READY)  ## run examples/digits.ipynb, and check what it shows
	$(VENV)/bin/python -m pytest -m notebook tests/end_to_end

clients-test: $(CLIENTS)/.ready  ## calls of Triton's, KServe's, OpenAI's and MLflow's own clients, in an environment of their own
	$(VENV)/bin/python -m pytest -m clients tests/clients

ray-test: $(RAY)/.ready  ## deploy/ray/app.py under a real Ray, in an environment of its own
	$(VENV)/bin/python -m pytest -m ray tests/ray

balancer-test: $(READY)  ## nginx in front of three servers, one of which is killed under load; needs nginx
	$(VENV)/bin/python -m pytest -m balancer tests/end_to_end

browser-test: $(READY)  ## the page at GET /score in headless Chromium; screenshots go to build/screenshots
	$(VENV)/bin/python -m pytest -m browser tests/browser

image-test: $(READY)  ## build the image and try it: readiness, a prediction, a failed start, SIGTERM
	$(VENV)/bin/python -m pytest -s --show-capture=no -m image tests/image

# Threads of one process that wait by spinning take the cores from the other's.
test: $(READY)  ## all fast tests
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)  ## ruff, mypy, and which package may import which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

format: $(READY)  ## let ruff format the code
	$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

fuzz: $(READY)  ## mutate checkpoints of every format, bodies of every codec and whole requests; bounded by MUTANTS and SECONDS
	$(VENV)/bin/python -m tests.fuzz --mutants $(or $(MUTANTS),20000) --bodies $(or $(MUTANTS),20000) --seconds $(or $(SECONDS),7200)
	$(VENV)/bin/python -m tests.fuzz_http --requests $(or $(MUTANTS),20000) --seconds $(or $(SECONDS),1800)

soak: $(READY)  ## twice the load that the server can carry; bounded by SECONDS (default: five minutes)
	$(VENV)/bin/python -m tests.soak --seconds $(or $(SECONDS),300)

test-quantised: $(READY)  ## compare quantised weights with the libraries that write them, which are installed into build/quantised
	$(VENV)/bin/$(PIP) --upgrade --target build/quantised --no-deps compressed-tensors==0.20.0 bitsandbytes==0.50.2 torchao==0.18.0 loguru
	$(VENV)/bin/$(PIP) --upgrade --target build/quantised_before --no-deps torchao==0.10.0
	$(VENV)/bin/python -m pytest -m quantised tests/weights/test_quantisation_libraries.py
	$(VENV)/bin/python -m pytest -m quantised tests/weights/test_quantisation_before.py

test-deepspeed: $(READY)  ## compare DeepSpeed's folders with its own zero_to_fp32, installed into build/deepspeed
	DS_BUILD_OPS=0 $(VENV)/bin/$(PIP) --upgrade --target build/deepspeed --no-deps deepspeed==0.19.8 hjson py-cpuinfo msgpack ninja einops nvidia-ml-py
	$(VENV)/bin/python -m pytest -m deepspeed tests/formats/test_deepspeed_library.py

test-megatron: $(READY)  ## compare Megatron's folders with Megatron itself, installed into build/megatron
	$(VENV)/bin/$(PIP) --upgrade --target build/megatron --no-deps megatron_core==0.13.1
	$(VENV)/bin/python -m pytest -m megatron tests/formats/test_megatron_library.py

test-blocks: $(READY)  ## compare pickled networks with torchvision, timm and segmentation-models-pytorch, installed into build
	$(VENV)/bin/$(PIP) --upgrade --target build/torchvision --no-deps torchvision==0.28.0
	$(VENV)/bin/$(PIP) --upgrade --target build/blocks --no-deps timm==1.0.31 segmentation-models-pytorch==0.6.0
	$(VENV)/bin/python -m pytest -m torchvision tests/architectures/test_torchvision_library.py tests/architectures/test_blocks_library.py

test-openmmlab: $(READY)  ## compare pickled networks with mmpretrain, mmsegmentation and mmdetection, installed into build/openmmlab
	$(VENV)/bin/$(PIP) --upgrade --target build/torchvision --no-deps torchvision==0.28.0
	$(VENV)/bin/$(PIP) --upgrade --target build/openmmlab --no-deps mmengine==0.10.7 mmcv-lite==2.1.0 mmpretrain==1.2.0 mmsegmentation==1.2.2 mmdet==3.3.0 addict yapf termcolor platformdirs opencv-python-headless einops mat4py modelindex model-index markdown prettytable wcwidth terminaltables shapely pycocotools matplotlib contourpy cycler fonttools kiwisolver pyparsing ftfy scipy ordered-set six python-dateutil
	$(VENV)/bin/python -m pytest -m openmmlab tests/architectures/test_openmmlab_library.py

test-yolo: $(READY)  ## compare YOLO networks with the library that makes them, which is installed into build/yolo
	$(VENV)/bin/$(PIP) --upgrade --target build/yolo --no-deps ultralytics==8.4.190 ultralytics-thop==2.2.3 opencv-python-headless polars polars-runtime-32 matplotlib contourpy cycler fonttools kiwisolver pyparsing
	YOLO_CONFIG_DIR=build/yolo YOLO_OFFLINE=true $(VENV)/bin/python -m pytest -m yolo tests/architectures/test_yolo_library.py

test-transformers: $(READY)  ## compare every class of transformers that can be built tiny with from_pretrained
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -m slow tests/architectures/test_transformers_classes.py

test-slow: $(READY)  ## the tests that take minutes
	$(VENV)/bin/python -m pytest -m slow

bench: $(READY)  ## what bench/README.md reports
	$(VENV)/bin/python bench/load.py
	$(VENV)/bin/python bench/serve.py
	$(VENV)/bin/python bench/scale.py
	$(VENV)/bin/python bench/start.py
	$(VENV)/bin/python bench/networks.py
	$(VENV)/bin/python bench/network_peers.py
	$(VENV)/bin/python bench/allocator.py

bench-recognise: $(LIBRARIES)/.ready  ## what bench/recognise.md reports
	HF_HUB_OFFLINE=1 $(LIBRARIES)/bin/python bench/recognise.py

lock:  ## write the lock files again, with the newest versions that pyproject.toml admits
	$(PYTHON) tools/lock.py

fingerprints: $(LIBRARIES)/.ready  ## write score/architectures/fingerprints.json.gz again, from torchvision, timm and transformers
	HF_HUB_OFFLINE=1 $(LIBRARIES)/bin/python tools/fingerprints.py

test-torchvision: $(LIBRARIES)/.ready  ## compare models/ with torchvision, and programs of 300 architectures; installs 5.5 GB
	$(LIBRARIES)/bin/python -m pytest -q --noconftest tests/torchvision

lock-image:  ## write the image's lock files again, with the same versions
	$(PYTHON) tools/lock.py image

clean:  ## remove everything that was made here
	rm -rf $(VENV) .cache examples/digits build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
