"""Combinations chosen by Optuna's tree-structured Parzen estimator, which learns from the runs that have ended."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from workspace.runs.folders import COMPLETED
from workspace.sweeps.plans import Axis, Plan, identity
from workspace.sweeps.ranking import Metric, Row

_TRIES = 100
"""So often the same combination is chosen again before they are taken to be used up."""


class Chosen(Plan):
    """`total` runs, each chosen when it can start, those that it is told to remember included.

    There is no state but the runs themselves: what they tell is told again when a sweep is resumed.
    """

    known_ahead = False
    total = 0

    def __init__(self, axes: list[Axis], total: int, metric: Metric, seed: int) -> None:
        super().__init__(axes, [])
        self.total = total
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._metric, self._seed = metric.name, seed
        with warnings.catch_warnings(action="ignore"):  # of values that no file could hold; there is none
            self._distributions = {axis.name: _distribution(axis) for axis in axes}
        self._study = optuna.create_study(direction="maximize" if metric.mode == "max" else "minimize")
        self._chosen: set[str] = set()
        self._asked: dict[str, optuna.Trial] = {}

    def remember(self, row: Row) -> bool:
        """Learn from a run that ended; one that failed is made again, before any new one."""
        trial = self._ended(row.parameters, row.value(self._metric))
        if trial and row.status == COMPLETED:
            self._study.add_trial(trial)
            self._chosen.add(identity(trial.params))
            return True
        if trial:
            self._study.enqueue_trial(trial.params)
        return False

    def missing(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The next run, chosen when it is asked for; none twice."""
        # The runs go on side by side. A seed for each resume: what was drawn once must not be drawn in the same order.
        seed = self._seed + len(self._chosen)
        self._study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        again = 0
        while len(self._chosen) < self.total and again < _TRIES:
            trial = self._study.ask(self._distributions)
            values = dict(trial.params)
            if (key := identity(values)) in self._chosen:
                again += 1
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            again = 0
            self._chosen.add(key)
            self._asked[key] = trial
            name = self.name(values)
            self.runs[name] = values
            yield name, values

    def tell(self, values: Mapping[str, Any], metric: float | None) -> None:
        """What the combination gave; None where its run failed."""
        if trial := self._asked.pop(identity(values), None):
            good = metric is not None and math.isfinite(metric)
            self._study.tell(trial, metric if good else None, state=None if good else TrialState.FAIL)

    def _ended(self, values: Mapping[str, Any], metric: float | None) -> FrozenTrial | None:
        """A trial that ended so; None where the values are not of these axes, as after those were changed."""
        known = {name: values.get(name) for name in self._distributions}
        good = metric is not None and math.isfinite(metric)
        state = TrialState.COMPLETE if good else TrialState.FAIL
        try:
            return optuna.create_trial(
                params=known, distributions=self._distributions, value=metric if good else None, state=state
            )
        except ValueError:
            return None


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.range is None:
        return CategoricalDistribution(axis.values)
    kind = IntDistribution if axis.range.whole else FloatDistribution
    return kind(axis.range.low, axis.range.high, log=axis.range.log)
