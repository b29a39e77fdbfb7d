# make demo       find the language neurons of the demo model and deactivate them
# make test       run the tests
# make test-long  run the tests that take minutes and rarely fail, such as kernels compiled for other chips and killed runs
# make archives   compile the kernels again that tests/ptx/archives keeps
# make fuzz       compare the kernels with plain PyTorch on drawn calls for MINUTES (60)
# make fuzz-sanitized  the same for the C++ kernels, built with the address and undefined behaviour sanitizers
# make test-wheel install the wheel in an empty environment, and measure the demo model there
# make lint       check the code with ruff, clang-format and mypy
# make format     format the code with ruff and clang-format
# make coverage   run the tests and print which lines of the package they run
# make docs       build the documentation as a site in build/docs
# make bench      run the CPU benchmarks and print tables
# make gpu        measure and check the kernels on a GPU with the current Python environment, in at most 6 minutes
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml requirements.txt $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-long test-wheel fuzz fuzz-sanitized archives lint format coverage docs bench gpu clean

demo: .venv/ready
	$(BIN)/pymultiling demo --out demo

# The tests of a file run in the same process, so that fixtures that they share are created once.
PYTEST := $(BIN)/pytest tests -n auto --dist loadfile

# The operators' Triton kernels as compiled for a GPU, interpreted (tests/ptx). The kernels of the first list are small.
# registered_operators calls all of them a few times.
files = $(patsubst %,tests/ops/test_%.py,$(1))
PTX_SMALL := $(call files,active_count column_energy gated_ffn mask_neurons nearest_neighbors normed_energy value_energy)
PTX_ALL := $(PTX_SMALL) $(call files,documents qk_estimate qk_importance qk_limits qk_variants registered_operators)
PTX := $(BIN)/pytest -n auto --dist loadfile --ptx

test: .venv/ready
	$(PYTEST) -m "not long"
	$(PTX) sm_90 $(PTX_ALL)

test-long: .venv/ready
	$(PYTEST) -m long
	$(PTX) sm_80 $(PTX_SMALL)
	$(PTX) sm_90 $(PTX_ALL) --ptx-triton 3.6.0
	$(PTX) sm_90 $(call files,registered_operators) --ptx-orders all

# The newest torch may be another one than that of the wheel's kernels, so it is installed first.
WHEEL := build/wheel
test-wheel: .venv/ready
	rm -rf $(WHEEL) && $(PYTHON) -m venv $(WHEEL)/venv
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w $(WHEEL) .
	$(WHEEL)/venv/bin/python -m pip install -q $$(grep ^torch== requirements.txt) $(WHEEL)/*.whl
	cd $(WHEEL) && venv/bin/python -c "from pymultiling.ops import unavailable; assert unavailable('cpp') is None"
	cd $(WHEEL) && venv/bin/pymultiling bench --length 64 --rounds 2

# Compiles these kernels anew, those whose code has changed. tests/ptx/compile.py says how another Triton does it.
archives: .venv/ready
	$(BIN)/python -m tests.ptx.compile --target sm_90 --tests $(PTX_ALL)
	$(BIN)/python -m tests.ptx.compile --target sm_80 --tests $(PTX_SMALL)

MINUTES ?= 60
fuzz: .venv/ready
	$(BIN)/python -m tests.ops.fuzz --minutes $(MINUTES)

# The extension is built into a folder of its own. Python itself has no sanitizers, so their libraries are loaded first.
SANITIZED := build/sanitized
SANITIZERS := -fsanitize=address,undefined -fno-sanitize=vptr -fno-omit-frame-pointer
fuzz-sanitized: .venv/ready
	CFLAGS="$(SANITIZERS)" CXXFLAGS="$(SANITIZERS)" LDFLAGS="$(SANITIZERS)" $(BIN)/python setup.py -q build_ext \
		--build-lib $(SANITIZED) --build-temp $(SANITIZED)/objects
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		$(BIN)/python -m tests.ops.fuzz --minutes $(MINUTES) --backends cpp \
		--extension $(SANITIZED)/pymultiling/_cpp.*.so

CPP := $(shell find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema -q --builtin-schema vendor.citation-file-format CITATION.cff

format: .venv/ready
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(CPP)

coverage: .venv/ready
	$(PYTEST) -m "not long" --cov --cov-report=term

# A warning, such as a link to nothing, ends the build.
docs: .venv/ready
	$(BIN)/python -m sphinx -q -W --keep-going -c docs . build/docs

bench: .venv/ready
	$(BIN)/pytest benchmarks -o python_files='bench_*.py' --benchmark-only --benchmark-columns=min,median,iqr,rounds
	$(BIN)/python -m benchmarks.whole_model.end_to_end

# It needs no installation, and builds the kernel in CUDA C++ itself. OUT is the results file.
gpu:
	$(PYTHON) -m benchmarks.gpu.run $(if $(OUT),--out $(OUT))

# The environment has pinned packages and this package, which is built against them.
.venv/ready: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv build demo *.egg-info pymultiling/*.so pymultiling/*.torch
