# make demo, make test: each creates .venv and installs what it needs; the second run is quick.
PYTHON ?= python3
PY := .venv/bin/python
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test test-full build emulate sanitize fuzz faults soak docs lint format clean

demo: build
	.venv/bin/dali-icgan demo

test: build emulate lint
	$(PY) -m pytest -m "not full"

test-full: build emulate lint
	$(PY) -m pytest

build: .venv/installed
	@$(PY) setup.py -q build_ext --inplace

# The CUDA kernels compiled as C++, so that the tests can run them on the CPU.
emulate: .venv/installed
	@DALI_ICGAN_CUDA=emulate $(PY) setup.py -q build_ext

# The kernels' tests again under AddressSanitizer and UBSan, CPU back ends and emulated CUDA kernels alike.
sanitize: .venv/installed build
	@DALI_ICGAN_CUDA=emulate DALI_ICGAN_SANITIZE=1 $(PY) setup.py -q build_ext
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so) $$(g++ -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
	  DALI_ICGAN_EMULATED=build/sanitize $(PY) -m pytest tests/ops

# A million damaged image files through the header parser under the sanitizers, and 20,000 of every other file that is read.
# MUTANTS=... as many of each instead, FUZZ_SEED=... others, DOMAINS="bank state" of these alone.
fuzz: .venv/installed build
	$(PY) -m tests.fuzz $(DOMAINS) $(if $(MUTANTS),--mutants $(MUTANTS)) --seed $(or $(FUZZ_SEED),0)

# Jobs killed at random moments, and what comes of them; KILLS=..., FAULTS_SEED=... for others. Noted for docs/reliability.md.
faults: .venv/installed build
	$(PY) -m tests.faults $(or $(KILLS),100) $(FAULTS_SEED) --record

# 100,000 small batches: memory, threads and descriptors must not grow. MINUTES=... for so long instead.
soak: .venv/installed build
	$(PY) -m tests.soak $(if $(MINUTES),--minutes $(MINUTES) --batches 0)

# docs/ as a site, with the API from docstrings. Nothing is fetched. Open build/site/index.html; its search needs a server:
# python -m http.server -d build/site
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

# Training frameworks that use the loader, each as docs/clients.md has it.
.PHONY: test-clients
test-clients: .venv/clients build
	$(PY) -m pytest tests/test_clients_md.py tests/test_resume.py tests/test_cluster_md.py

.venv/clients: .venv/installed
	$(PY) -m pip install -q --no-build-isolation -e ".[cu13,dev,clients]"
	touch $@

# The loaders that `dali-icgan bench` measures beside ours. FFCV is compiled against OpenCV and libjpeg-turbo (libopencv-dev,
# libturbojpeg0-dev, pkg-config); SPDL needs FFmpeg's libraries (libavdevice, libavfilter): who lacks them is listed, and left out.
.PHONY: bench-peers
bench-peers: .venv/installed
	$(PY) -m pip install -q --no-build-isolation -e ".[cu13,dev,bench]"
	$(PY) -m pip install -q --no-build-isolation ffcv || echo "FFCV was not installed: bench goes on without it"

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.venv/installed: pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install -q "setuptools>=77" ninja "pybind11>=2.13"
	$(PY) -m pip install -q --no-build-isolation -e ".[cu13,dev]"
	touch $@

clean:
	rm -rf build dali_icgan/_C*.so

# The wheel for cluster nodes, and it with all that it needs (docs/cluster.md). RELEASE=--record notes what was seen.
.PHONY: wheels wheelhouse
wheels: .venv/installed
	$(PY) -m release wheel $(RELEASE)

wheelhouse: .venv/installed
	$(PY) -m release wheelhouse --extras $(or $(EXTRAS),cu13) $(addprefix --keep ,$(KEEP)) $(RELEASE)
