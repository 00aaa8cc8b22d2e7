# `make demo` and `make test` work on a machine with Python 3.11+ and nothing else.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lowest check notebooks pictures docs docs-serve docs-links clean

demo: .venv/installed
	$(BIN)/python recipes/aws_digits.py --output_dir runs/digits

test: .venv/installed
	$(BIN)/python -m pytest -n auto
	$(BIN)/python -m pytest -m browser tests/test_browser.py  # one server and one browser for all of them

lowest: .venv/lowest/installed  # the tests with the oldest versions that pyproject.toml allows
	.venv/lowest/bin/python -m pytest -n auto

check: .venv/installed .venv/pydoclint/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	.venv/pydoclint/bin/python docs/lint_docstrings.py

notebooks: .venv/installed  # anew, with their outputs
	cd notebooks && PYTHONWARNINGS='ignore:IProgress not found' ../$(BIN)/jupyter-execute --inplace *.ipynb

pictures: .venv/installed  # of the pages and the README, from results, masks and the contract of the layers
	for script in layers effect method measured; do $(BIN)/python docs/draw_$$script.py; done

docs: .venv/docs-installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --conf-dir docs/site . build/site

docs-serve: docs
	$(BIN)/python -m http.server --directory build/site 8000

docs-links: docs  # within the site; `sphinx-build -b linkcheck` asks for those to others
	$(BIN)/linkchecker --config docs/site/linkchecker.ini build/site/docs/start.html

.venv/docs-installed: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/lowest/installed: pyproject.toml  # 3 GB on Linux, where that torch brings its CUDA
	$(PYTHON) -m venv .venv/lowest
	.venv/lowest/bin/python -m pip install --quiet uv
	.venv/lowest/bin/uv pip install --quiet --python .venv/lowest --resolution lowest-direct --editable '.[plots,web,onnx,interop,test]'
	touch $@

.venv/pydoclint/installed: constraints.txt .venv/installed  # apart, as it brings a docstring_parser of its own
	$(PYTHON) -m venv .venv/pydoclint
	.venv/pydoclint/bin/python -m pip install --quiet --constraint constraints.txt pydoclint
	touch $@

clean:
	rm -rf .venv runs
