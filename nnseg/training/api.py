"""`train`: training from Python, on cases in memory, optionally with a custom loss or network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from nnseg.core.errors import PlanError
from nnseg.core.image import PreprocessedCase
from nnseg.core.plan import Plan
from nnseg.core.schedule import Course, Epoch
from nnseg.network.bundle import Member, Model
from nnseg.network.device import autocast_dtype, resolve_device
from nnseg.storage.cases import StoredCase, in_memory
from nnseg.training.context import TrainingContext
from nnseg.training.learner import Learner
from nnseg.training.loop import take_steps
from nnseg.training.losses import OwnLoss
from nnseg.training.patches import Patches
from nnseg.training.validation import Validation

AnyCase = PreprocessedCase | StoredCase


class TrainingRun:
    """A training made by `train`: a ``for`` over it trains, and `model` gives the result so far."""

    def __init__(self, learner: Learner, patches: Patches, validation: Validation) -> None:
        self.learner, self._patches, self._validation = learner, patches, validation

    def __repr__(self) -> str:
        context = self.learner.context
        return f"TrainingRun(plan={context.plan.name}, fold={context.fold}, step={self.learner.step})"

    def __iter__(self) -> Iterator[Epoch]:
        """Train on, one epoch at a time; raises `NnsegError` when the loss is not finite."""
        yield from filter(None, take_steps(self.learner, self._patches, self._validation))

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights by their names in the network, averaged if the plan averages."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.learner.weights().items()}

    def model(self) -> Model:
        """A model of one member, to predict with, save or export.

        One with a custom network needs it for prediction: ``nnseg.load(model, network=my_network)``.
        """
        context = self.learner.context
        return Model(members=(Member(plan=context.plan, fold=context.fold, weights=self.weights()),))


def train(
    plan: Plan,
    cases: Sequence[AnyCase],
    fold: int = 0,
    *,
    held_out: Sequence[AnyCase] = (),
    steps: int | None = None,
    device: str = "auto",
    loss: OwnLoss | None = None,
    network: Callable[[Plan], nn.Module] | None = None,
) -> TrainingRun:
    """A training that starts when it is iterated over.

    Args:
        plan: all decisions.
        cases: to learn from, as `preprocess` or a `CaseStore` gives them.
        fold: a number that initial weights and patches depend on, besides the plan's seed.
        held_out: cases on which each epoch's Dice is estimated.
        steps: instead of the plan's.
        device: "auto", "cpu", "cuda:1", ...
        loss: instead of the plan's: a function of float32 logits (B, K, *space) and int64 labels (B, *space) that returns a
            scalar. Labels are indices into ``plan.labels.values``, -1 where ignored. Called for the logits of every stage.
        network: instead of the plan's: a function of the plan that returns a network from images (B, ``plan.input_channels``,
            *patch) to logits (B, K, *patch), or a list of the logits of several stages, finest first.

    Raises:
        PlanError: neither the plan nor ``steps`` sets the length of the training.
        DatasetError: there are no cases.

    Example::

        training = nnseg.train(plan, cases, held_out=others, loss=my_loss)
        for epoch in training:
            print(epoch.step, epoch.loss, epoch.dice)
        found = nnseg.load(training.model()).predict(scan)
    """
    length = steps or plan.training.steps
    if length is None:
        raise PlanError("the plan leaves the length of training to a budget; give steps, or set training.steps")
    target = resolve_device(device)
    context = TrainingContext(plan=plan, fold=fold, device=target, dtype=autocast_dtype(target, plan.training.precision))
    learner = Learner(context, Course.of(length, plan.training), network=network(plan) if network else None, loss=loss)
    training, others = ([c if isinstance(c, StoredCase) else in_memory(c) for c in some] for some in (cases, held_out))
    patches = Patches(training, plan, fold=fold, device=target)
    return TrainingRun(learner, patches, Validation(others, context))
