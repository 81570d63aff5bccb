"""The weights that a training begins with: fresh ones, or those of a trained model."""

from __future__ import annotations

import logging

from torch import nn

from nnseg.core.errors import ModelError
from nnseg.core.plan import Plan
from nnseg.network.transfer import adapt
from nnseg.verbs.model import load_model
from nnseg.verbs.options import Options
from nnseg.verbs.schedule import Origin

log = logging.getLogger(__name__)


def origin_of(options: Options) -> Origin | None:
    """Where the first weights are to be taken from; None for fresh ones.

    Raises:
        ModelError: there is no such model.
    """
    if options.init is None:
        if options.freeze:
            raise ModelError(f"--freeze {options.freeze} leaves that part as it is, which makes sense with --init MODEL only")
        return None
    return Origin(model=str(options.init.resolve()), key=load_model(options.init).key(), freeze=options.freeze)


def begin(network: nn.Module, plan: Plan, fold: int, origin: Origin) -> None:
    """Give a fresh network the weights of its origin, as far as they fit.

    The member of the same fold is taken where there is one, which has not seen the cases that this fold holds out.

    Raises:
        ModelError: the origin is not what it was when the training was scheduled, or nothing of it fits, or not all that is to be
            frozen.
    """
    model = load_model(origin.model)
    if model.key() != origin.key:
        raise ModelError(
            f"{origin.model} is not the model that this training began with; put it back, or begin in a new run folder"
        )
    reuse = adapt(network, plan, model, fold=fold)
    log.info("%s: %s", origin.model, reuse.describe())
    if origin.freeze and reuse.misfit.startswith(origin.freeze):
        raise ModelError(f"--freeze {origin.freeze} would leave fresh weights as they are: {reuse.misfit}; leave it out")
    same = model.members[0].plan.dataset == plan.dataset
    if same and reuse.fold != fold:
        log.warning("this model has no fold %d: it may have learned from cases that are held out here, and scores flatter it", fold)
