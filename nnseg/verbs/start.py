"""The weights that a training begins with: fresh ones, or those of a trained model."""

from __future__ import annotations

import logging

from torch import nn

from nnseg.core.errors import ModelError
from nnseg.core.plan import Plan
from nnseg.network.transfer import adapt, freeze
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


def begin(network: nn.Module, plan: Plan, origin: Origin | None) -> nn.Module:
    """A fresh network with the weights of its origin, as far as they fit, and parts of it frozen.

    Raises:
        ModelError: the origin is not what it was when the training was scheduled, or nothing of it fits.
    """
    if origin is None:
        return network
    model = load_model(origin.model)
    if model.key() != origin.key:
        raise ModelError(
            f"{origin.model} is not the model that this training began with; put it back, or begin in a new run folder"
        )
    reuse = adapt(network, plan, model)
    log.info("%s: %s", origin.model, reuse.describe())
    if origin.freeze:
        freeze(network, origin.freeze)
    return network
