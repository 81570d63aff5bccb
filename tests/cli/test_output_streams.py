"""Output that is closed or on a full disk costs no work, and the exit code tells of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnseg.cli.output_streams import OUTPUT_LOST

FULL = Path("/dev/full")
WORK = (
    "import sys; from pathlib import Path; from nnseg import cli\n"
    "def app():\n"
    "    for n in range(20000): print('line', n)\n"
    "    print('log', file=sys.stderr)\n"
    "    sys.stdout.flush()\n"
    "    with open(sys.argv[1], 'w') as file: file.write(f'done {file.fileno()}')\n"
    "    sys.exit(int(sys.argv[2]))\n"
    "cli.app = app; cli.main()"
)


def work(tmp_path: Path, shell: str, code: int = 0) -> tuple[int, str, str]:
    """Exit code, what was written to a file, and stderr, of a program whose streams are redirected by a shell."""
    program, done = tmp_path / "work.py", tmp_path / "done"
    program.write_text(WORK)
    command = f"{sys.executable} {program} {done} {code} {shell}"
    run = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, check=False, env=dict(os.environ))
    return run.returncode, done.read_text(), run.stderr


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_work_goes_on_when_the_output_is_full(tmp_path: Path) -> None:
    code, done, error = work(tmp_path, "> /dev/full")
    assert done.startswith("done")
    assert code == OUTPUT_LOST
    assert error.splitlines() == [
        "log",
        "nnseg: some output could not be written (No space left on device); the work went on without",
    ]


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
def test_work_goes_on_when_stderr_is_full(tmp_path: Path) -> None:
    code, done, _ = work(tmp_path, "2> /dev/full > /dev/null")
    assert (code, done[:4]) == (OUTPUT_LOST, "done")


def test_work_goes_on_when_nobody_reads_the_output(tmp_path: Path) -> None:
    code, done, error = work(tmp_path, "| head -1 > /dev/null; exit ${PIPESTATUS[0]}")
    assert (code, done[:4]) == (OUTPUT_LOST, "done")
    assert error == "log\n"


def test_no_file_takes_the_number_of_a_closed_stream(tmp_path: Path) -> None:
    code, done, _ = work(tmp_path, "> /dev/null 2>&- <&-")
    assert code == 0
    assert int(done.split()[1]) > 2


def test_another_exit_code_comes_first(tmp_path: Path) -> None:
    assert work(tmp_path, "> /dev/null", 3)[0] == 3
    assert work(tmp_path, "> /dev/full", 3)[0] == 3


def test_letters_that_the_encoding_lacks_are_written_as_in_python() -> None:
    program = "from nnseg import cli; cli.app = lambda: print('Łódź'); cli.main()"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, env=environment)
    assert (run.returncode, run.stdout.splitlines()) == (0, [rb"\u0141" + "ó".encode("cp1252") + rb"d\u017a"]), run.stderr


def test_a_path_that_the_systems_encoding_cannot_hold_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"training": [{"image": "ä.nii.gz", "label": "ö.nii.gz"}]}', encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "nnseg", "check", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | plain)
    assert run.returncode == 2
    assert "cannot be a path here, where names of files are ascii; set PYTHONUTF8=1" in run.stderr
