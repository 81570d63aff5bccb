"""What a process of nnseg logs."""

import subprocess
import sys

CODE = """
import logging
from nnseg.system.log_format import log_lines
log_lines()
logging.getLogger("other").info("information of another package")
logging.getLogger("other").warning("warning of another package")
logging.getLogger("nnseg.serving").info("information of nnseg")
logging.getLogger(__name__).info("information of the module that runs")
"""


def test_other_packages_log_warnings_only():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["warning of another package", "information of nnseg", "information of the module that runs"]
