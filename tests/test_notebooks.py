"""The notebooks run from top to bottom, and the outputs that stand in their files are what comes out."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture
def _folders_of_jupyter(monkeypatch, tmp_path):
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    source = str(FOLDER.parent / "src")  # before an installed version
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")  # of tqdm, without ipywidgets


def form(notebook: NotebookNode) -> list[list[dict[str, str]]]:
    """The outputs of each cell of code: their kinds, and their text with # in the place of numbers and signs."""
    return [
        [{kind: re.sub(r"[-+.\d]+", "#", " ".join(text.split())) for kind, text in texts(output)} for output in outputs]
        for outputs in (cell.outputs for cell in notebook.cells if cell.cell_type == "code")
    ]


def texts(output: NotebookNode) -> list[tuple[str, str]]:
    if output.output_type == "stream":
        return [(output.name, output.text)]
    return [(kind, text if kind == "text/plain" else "") for kind, text in output.data.items()]


@pytest.mark.multiprocess
@pytest.mark.usefixtures("_folders_of_jupyter")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_file_has_what_comes_out(path):
    in_the_file = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    NotebookClient(run, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}}).execute()
    assert form(run) == form(in_the_file)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_with_its_pictures_and_without_errors(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("image/png") >= 3
    assert {output.output_type for output in outputs} <= {"stream", "execute_result", "display_data"}
    assert "stderr" not in {output.get("name") for output in outputs}


def test_there_are_two_notebooks_and_the_site_shows_them():
    start = (FOLDER.parent / "docs/start.md").read_text(encoding="utf-8")
    names = [path.stem for path in NOTEBOOKS]
    assert names == ["inside-a-mask", "see-the-effect"]
    assert all(f"../notebooks/{name}" in start for name in names)
