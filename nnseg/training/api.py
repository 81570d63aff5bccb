"""`train`: a training from Python, on cases in memory, with a loss, a network or first weights of one's own if one likes."""

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
    """A training under way: a ``for`` over it trains, and `model` is what has come of it so far. Made by `train`."""

    def __init__(self, learner: Learner, patches: Patches, validation: Validation) -> None:
        self.learner, self._patches, self._validation = learner, patches, validation

    def __iter__(self) -> Iterator[Epoch]:
        """Train, an epoch at a time, from where it was left; raises `NnsegError` when the loss is no longer finite."""
        for step in take_steps(self.learner, self._patches, self._validation):
            if step.epoch:
                yield step.epoch

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights by their names in the network, averaged if the plan averages."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.learner.weights().items()}

    def model(self) -> Model:
        """A model of one member: to predict with, to save, to be exported.

        One with a network of one's own is predicted with by ``Predictor(model, network=my_network)``.
        """
        setting = self.learner.setting
        return Model(members=(Member(plan=setting.plan, fold=setting.fold, weights=self.weights()),))


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
    """A training, ready to start.

    Args:
        plan: all decisions.
        cases: to learn from, as `preprocess` or a `CaseStore` gives them.
        fold: a number that first weights and patches depend on, besides the plan's seed.
        held_out: cases on which each epoch's Dice is estimated.
        steps: instead of the plan's.
        device: "auto", "cpu", "cuda:1", ...
        loss: instead of the plan's: a function of float32 logits (B, K, *space) and int64 labels (B, *space) whose answer is a
            scalar. Labels are indices into ``plan.labels.values``, -1 where ignored. Every stage that answers is asked about.
        network: a function that makes a network of one's own: (B, ``plan.inputs``, *patch) to logits, or a list of them, finest
            first.

    Raises:
        PlanError: neither the plan nor ``steps`` says how long to train.
        DatasetError: there are no cases.

    Example::

        training = nnseg.train(plan, cases, held_out=others, loss=my_loss)
        for epoch in training:
            print(epoch.step, epoch.loss, epoch.dice)
        prediction = nnseg.predict(training.model(), scan)
    """
    length = steps or plan.training.steps
    if length is None:
        raise PlanError("the plan leaves the length of training to a budget; give steps, or set training.steps")
    target = resolve_device(device)
    setting = TrainingContext(plan=plan, fold=fold, device=target, dtype=autocast_dtype(target, plan.training.precision))
    learner = Learner(setting, Course.of(length, plan.training), network=network(plan) if network else None, loss=loss)
    patches = Patches([_readable(case) for case in cases], plan, fold=fold, device=target)
    return TrainingRun(learner, patches, Validation([_readable(case) for case in held_out], setting))


def _readable(case: AnyCase) -> StoredCase:
    return case if isinstance(case, StoredCase) else in_memory(case)
