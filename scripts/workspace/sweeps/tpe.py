"""Combinations chosen by Optuna's tree-structured Parzen estimator, which learns from the runs that have ended."""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from workspace.base import cli
from workspace.base.cli import UserError
from workspace.sweeps import axes as axes_
from workspace.sweeps.axes import Axis

_TRIES = 100
"""So often the same combination is chosen again before they are taken to be used up."""


def require() -> None:
    """Raise UserError unless Optuna is installed."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--method tpe needs Optuna, an extra: `.venv/bin/uv pip install --python .venv optuna`; for the image "
            "add the line `optuna` to docker/requirements.in and run scripts/lock",
            cli.BAD_INPUT,
        )


class Chooser:
    """Asks for `count` combinations in all, those of `done` (values and metric) included.

    There is no state but the runs themselves: what they tell is told again when a sweep is resumed.
    """

    def __init__(
        self, axes: list[Axis], count: int, mode: str, done: Iterable[tuple[Mapping[str, Any], float]]
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        told = list(done)
        self._failed = optuna.trial.TrialState.FAIL
        distributions = {axis.name: _distribution(optuna.distributions, axis) for axis in axes}
        self._study = optuna.create_study(
            direction="maximize" if mode == "max" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=len(told), constant_liar=True),  # runs go on side by side
        )
        for values, metric in told:
            known = {name: values[name] for name in distributions}
            self._study.add_trial(optuna.create_trial(params=known, distributions=distributions, value=metric))
        self._distributions, self._count = distributions, count
        self._chosen = {axes_.identity(values) for values, _ in told}
        self._asked: dict[str, Any] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The next combination, chosen when it is asked for; none twice."""
        again = 0
        while len(self._chosen) < self._count and again < _TRIES:
            trial = self._study.ask(self._distributions)
            values = dict(trial.params)
            if (key := axes_.identity(values)) in self._chosen:
                again += 1
                self._study.tell(trial, state=self._failed)
                continue
            again = 0
            self._chosen.add(key)
            self._asked[key] = trial
            yield values

    def tell(self, values: Mapping[str, Any], metric: float | None) -> None:
        """What the combination gave; None where its run failed."""
        if trial := self._asked.pop(axes_.identity(values), None):
            self._study.tell(trial, metric, state=None if metric is not None else self._failed)


def _distribution(kinds: Any, axis: Axis) -> Any:  # noqa: ANN401  (Optuna, imported late)
    if axis.range is None:
        return kinds.CategoricalDistribution(axis.values)
    kind = kinds.IntDistribution if axis.range.whole else kinds.FloatDistribution
    return kind(axis.range.low, axis.range.high, log=axis.range.log)
