# make demo    finds the language neurons of the model in the package and switches them off
# make test    the tests, with coverage
# make bench   the benchmarks, as tables
PYTHON ?= python3
BIN := .venv/bin
SOURCES := setup.py pyproject.toml requirements.txt $(shell find csrc -name '*.cpp' -o -name '*.h')

.PHONY: demo test bench clean

demo: .venv/ready
	$(BIN)/pymultiling demo --out demo

test: .venv/ready
	$(BIN)/pytest tests --cov --cov-report=term

bench: .venv/ready
	$(BIN)/pytest benchmarks -o python_files='bench_*.py' --benchmark-only --benchmark-columns=min,median,iqr,rounds
	$(BIN)/python benchmarks/end_to_end.py

# The environment: pinned packages, then the package itself, built against them.
.venv/ready: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv build demo *.egg-info pymultiling/*.so
