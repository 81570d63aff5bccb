"""A model and the live line in a notebook with a real kernel."""

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

TESTS = Path(__file__).parents[1]

CELLS = [
    f"import sys; sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / 'serving')!r}]\n"
    "import nnseg; from small_models import array_of, model_of\n"
    "model = nnseg.load(model_of(), device='cpu'); model",
    "found = model.predict(array_of(14, 19, 23), spacing=(1.5, 2, 1), orientation='SPL'); found",
    "found.plot()",
    "from ball_dataset import write_balls; from pathlib import Path; import tempfile, time\n"
    "checked = nnseg.check(write_balls(Path(tempfile.mkdtemp()) / 'balls', cases=4), workers=1)\n"
    "from nnseg.system.progress import progress\n"
    "for _ in progress(range(3), total=3, label='predicting'): time.sleep(0.7)\n"
    "checked.doubtful",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's client
def test_a_notebook_shows_models_results_and_progress():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(notebook, timeout=200, kernel_name="python3").execute()
    loaded, predicted, drawn, checked = ([dict(output) for output in cell.outputs] for cell in notebook.cells)
    assert loaded[-1]["data"]["text/plain"].startswith("nnseg model: 1 network of 3d")
    assert "<img src='data:image/png;base64," in predicted[-1]["data"]["text/html"]
    assert ["image/png" in output.get("data", {}) for output in drawn] == [True]  # once
    assert checked[-1]["data"]["text/plain"] == "False"
    written = "".join(output.get("text", "") for output in checked)
    shown = {match[1] for match in re.finditer(r"predicting +\[[= ]{12}\] +(\d) of 3", written)}
    assert len(shown) > 1 or any("widget-view" in kind for output in checked for kind in output.get("data", {}))
    assert "\x1b" not in written and "Warning" not in written
