"""The process that trains one fold for `nnseg.commands.train_parallel`."""

from __future__ import annotations

import logging
import sys

from nnseg.commands.train_parallel import TrainingJob
from nnseg.core.errors import NnsegError, Stopped
from nnseg.storage.plan_folder import PlanFolder
from nnseg.storage.run import Run
from nnseg.system.log_format import log_lines
from nnseg.system.process import ParentConnection
from nnseg.system.stop import StopRequest
from nnseg.training.fold import TrainingRequest, train_fold
from nnseg.training.progress import ProgressSettings

log = logging.getLogger(__name__)


def main() -> None:
    """Do the job that the parent sends; what goes wrong is the last line on stderr, and the exit code."""
    log_lines()
    job = ParentConnection().receive(TrainingJob)
    with StopRequest(Run(job.run).stop_file, remove_file=False, parent=job.parent) as stop:
        request = TrainingRequest(options=job.options, stop=stop, progress=ProgressSettings(tensorboard=job.options.tensorboard))
        try:
            train_fold(PlanFolder(job.plan), job.number, job.fold, job.keys, request)
        except Stopped as end:
            log.info("%s", end)
            sys.exit(end.code)
        except NnsegError as error:
            log.error("%s", error)
            sys.exit(2)
