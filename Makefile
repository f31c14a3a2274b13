# Two commands: `make demo` and `make test`. Each makes .venv if it is missing.

PYTHON ?= python3
BIN := .venv/bin
RUN := runs/demo
STUDY := runs/demo-compare
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint types imports docs tests format benchmarks evidence fuzz clean

demo: .venv/installed
	rm -rf $(RUN) $(STUDY)
	$(BIN)/grawa train digits --strategy lgrawa --workers 4 --out $(RUN)
	$(BIN)/grawa evaluate $(RUN)
	$(BIN)/grawa compare digits --quick --faults clean,wrong-labels:3 --out $(STUDY)

test: .venv/installed
	$(MAKE) --jobs lint imports types docs tests

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: .venv/installed
	$(BIN)/mypy

imports: .venv/installed
	$(BIN)/lint-imports

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

tests: .venv/installed
	$(BIN)/pytest --numprocesses=2 --dist=loadscope --no-loadscope-reorder

fuzz: .venv/installed
	GRAWA_FUZZ=1000 $(BIN)/pytest tests/lab/cli/test_hostile.py tests/checkpoints/test_fuzz.py

benchmarks: .venv/installed
	$(BIN)/pip install -qq -c constraints.txt -e '.[lab,bench]'
	for name in sync local_step paired stragglers scale stacking theory guard; do \
		$(BIN)/python benchmarks/$$name.py || exit 1; \
	done

evidence: .venv/installed runs/evidence/theory runs/evidence/wells
	$(BIN)/python benchmarks/evidence.py

runs/evidence/theory: | .venv/installed
	$(BIN)/python benchmarks/theory.py
	mkdir -p $(@D)
	touch $@

runs/evidence/wells: | .venv/installed
	$(BIN)/grawa wells --out $@
	cp $@/paths.gif docs/pictures/wells.gif

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache runs site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq -c constraints.txt -e '.[lab,dev,docs,flatness,tensorboard,elastic,accelerate,lightning,transformers]'
	# A dependency of [flatness] brings it, and doesn't use it. Built for another torch, as on CPUs,
	# it can't be imported, and then Transformers can't either.
	$(BIN)/python -c 'import torchvision' 2> /dev/null || $(BIN)/pip uninstall -qqy torchvision
	touch $@
