"""The plans of a model's networks, in a run folder or an exported file, read without torch."""

from __future__ import annotations

from pathlib import Path

from nnseg.core.errors import ModelError, PlanError
from nnseg.core.plan import Plan
from nnseg.core.validation import parse
from nnseg.storage.model_header import damaged, read_model_header
from nnseg.storage.run import Run


def read_model_plans(path: Path) -> tuple[Plan, ...]:
    """The plans of the networks of a run or an exported model, one of each name, those of a cascade's first stage last.

    Raises:
        ModelError: there is no model, or its description is damaged.
    """
    if path.is_dir():
        run = Run(path)
        final = [run.final_plans[name] for name in run.weights]
        return tuple(folder.plan for folder in (*final, *run.previous(final)))
    try:
        about = read_model_header(path)["about"]
        entries = [*about["members"], *about.get("previous", ())]
        plans = [parse(Plan, entry["plan"], str(path)) for entry in entries]
    except FileNotFoundError as error:
        raise ModelError(f"there is no model {path}; give a run folder or a file made by nnseg export") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}; check its permissions and the disk") from error
    except (KeyError, TypeError, AttributeError, PlanError) as error:
        raise damaged(path, f"it describes no networks ({error})") from error
    return tuple({plan.name: plan for plan in reversed(plans)}.values())[::-1]
