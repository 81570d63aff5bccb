"""The process that `nnseg predict` starts for each device: loads the models once, then predicts what it is given."""

from __future__ import annotations

from dataclasses import replace

from nnseg.inference.predict import Predictor
from nnseg.network.device import resolve_device
from nnseg.verbs.line import Answerer
from nnseg.verbs.messages import Order
from nnseg.verbs.model import load_model, merge
from nnseg.verbs.serving import serve


def main() -> None:
    """Serve whoever started this process."""
    serve(load_predictor)


def load_predictor(order: Order) -> tuple[Answerer, str]:
    """The predictor for an order, with the device that was found.

    Raises:
        ModelError: a model, or a fold of one, cannot be loaded, or they do not go together.
        RunError: there is no such device.
    """
    device = resolve_device(order.device)
    model = merge([load_model(path, folds=order.folds) for path in order.models])
    if not order.postprocessing:
        model = replace(model, postprocessing=())
    return Predictor(model, device=device, step=order.step, mirror=order.mirror, classic=order.classic), str(device)
