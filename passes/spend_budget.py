"""Approximate chains for convolutions, as long as max |y - y'| <= budget max |y| for every output y.

Each pass that splits convolutions offers chains near them (`ChainPass.candidates`); with calibration data, they are
fitted to what the convolution makes of it (`convc.passes.refit`). Each chain is measured alone on the calibration
inputs; where that takes too long, one of each convolution is, and the others are assumed to err in proportion. Then,
greedily: the chain that gains most predicted time for the error it adds is put in, the network's error is measured,
and where it exceeds the budget the chain is taken out again. A chain may be followed by a coarser one of the same
convolution. What is left is under the budget, on those inputs.
Certificate of each rewrite: weight_error (Frobenius, relative), response_error (likewise, of w x, where fitted), alone
(output error with nothing else rewritten), output_error (with all rewrites up to this one), MACs and predicted seconds
before and after, at nominal sizes.
Numerics: approximate. Rejects: chains that overshoot; convolutions that nothing near makes faster; outputs that are
not finite. Source: Zhang et al., arXiv:1505.06798, section 2.4, for the greedy choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from convc.ir.graph import Graph, Node
from convc.ir.patch import Draft
from convc.passes.base import Numerics, PassResult, Reject, Rewrite
from convc.passes.bottleneck import BOTTLENECK
from convc.passes.calibration import calibrate
from convc.passes.chain import Candidate, Chain, ChainPass, Kernel, Moments, certify, read_kernel
from convc.passes.context import Context
from convc.passes.pattern import is_known, operand
from convc.passes.refit import Responses, refit
from convc.passes.separate_depthwise import SEPARATE_DEPTHWISE
from convc.passes.separate_kernels import SEPARATE_KERNELS
from convc.passes.stack_conv5x5 import STACK_CONV5X5
from convc.passes.trial import State, Trial

OFFERS: tuple[ChainPass, ...] = (SEPARATE_DEPTHWISE, STACK_CONV5X5, BOTTLENECK, SEPARATE_KERNELS)
ROUNDS = 6
NEARLY = 1.6
"""Times the budget: what overshoots by less is fitted again for its largest error."""
SHARE = 0.005
"""Of the predicted time: convolutions below it are left alone."""
WORK = 4 * 10**11
"""Multiply-adds that may be evaluated for measuring: half a minute or so in the interpreter."""
NAME = "spend_budget"


@dataclass(frozen=True, eq=False)
class Choice:
    """A candidate with the output error it causes alone, measured or assumed."""

    candidate: Candidate
    alone: float

    @property
    def conv(self) -> str:
        return self.candidate.kernel.node.name

    @property
    def seconds(self) -> float:
        return self.candidate.certificate["seconds_after"]


@dataclass(frozen=True)
class SpendBudget:
    """Approximates convolutions up to a measured output error; without a budget, does nothing."""

    budget: float | None = None
    calibration: Any = field(default=None, compare=False, repr=False)
    name: str = NAME
    numerics: Numerics = Numerics.APPROXIMATE
    doc: str = "approximates convolutions by chains of smaller ones, up to a measured error of the outputs"

    @property
    def options(self) -> Mapping[str, Any]:
        return {"budget": self.budget}

    def run(self, graph: Graph, context: Context) -> PassResult:
        if self.budget is None or not any(node.op == "conv2d" for node in graph.nodes):
            return PassResult(graph)
        calibration = calibrate(graph, self.calibration)
        trial = Trial(graph, calibration)
        if not trial.finite:
            reason = f"the outputs on {calibration.note} are zero, NaN or infinite: no error is relative to them"
            return PassResult(graph, (), (Reject(graph.outputs[0].node, reason, NAME),))
        draft = Draft(graph)
        seen = _responses(draft, context, trial) if self.calibration is not None else {}
        choices = _choices(trial, _offers(draft, context, seen))
        choices = [_nearer(draft, context, trial, c, seen, self.budget) for c in choices]
        return _Spending(self.budget, trial, calibration.note).run(graph, choices)


@dataclass(frozen=True, eq=False)
class Seen:
    """A convolution on calibration inputs."""

    responses: Responses
    moments: Moments | None


def _worthwhile(draft: Draft, context: Context) -> list[Node]:
    """Convolutions that take a share of the predicted time."""
    nodes = [draft[name] for name in draft.names]
    seconds = {node.name: context.seconds(draft, [node], draft.nominal) for node in nodes}
    least = SHARE * sum(seconds.values())
    return [node for node in nodes if node.op == "conv2d" and seconds[node.name] >= least]


def _responses(draft: Draft, context: Context, trial: Trial) -> dict[str, Seen]:
    """What the convolutions make of the calibration inputs, where chains can be fitted to it."""
    found: dict[str, Seen] = {}
    for node in _worthwhile(draft, context):
        kernel = read_kernel(draft, node)
        plain = node.attrs["prologue"] is None and len(node.inputs) <= 4 and _known_bias(draft, node)
        if plain and isinstance(kernel, Kernel):
            responses = Responses.of(kernel, trial.start.values[node.operands[0]])
            found[node.name] = Seen(responses, responses.moments(kernel))
    return found


def _offers(draft: Draft, context: Context, seen: Mapping[str, Seen]) -> dict[str, list[Candidate]]:
    """Candidates for each convolution, fastest first: those that no other one beats in both time and nearness.

    Where responses are known, chains are fitted to them, and the nearest is the one with the least error of them;
    otherwise, with the least error of the weights.
    """
    found: dict[str, list[Candidate]] = {}
    for node in _worthwhile(draft, context):
        known = seen.get(node.name)
        candidates = [
            c for one in OFFERS for c in one.candidates(draft, node, context, known.moments if known else None)
        ]
        if known is not None:
            candidates = [_made(draft, context, c, *refit(c.chain, known.responses)) for c in candidates]
        kept = _undominated(candidates)
        if kept:
            found[node.name] = kept
    return found


def _nearer(
    draft: Draft, context: Context, trial: Trial, choice: Choice, seen: Mapping[str, Seen], budget: float
) -> Choice:
    """The choice fitted for its largest error, where that decides whether it fits in: Lawson's weights.

    Each example counts in proportion to the error that it shows, over and over.
    """
    known = seen.get(choice.conv)
    if known is None or not budget < choice.alone <= NEARLY * budget:
        return choice
    weights = np.ones(len(known.responses.x))
    chain, best = choice.candidate.chain, choice
    for _ in range(ROUNDS):
        errors = trial.measure(trial.start, choice.candidate).by_example
        if errors is None or len(errors) != len(weights):
            break
        weights = weights * errors / max(float(errors.mean()), 1e-30)
        weights = np.clip(weights / max(float(weights.mean()), 1e-30), 0.05, 50.0)
        candidate = _made(draft, context, choice.candidate, *refit(chain, known.responses, weights))
        choice = Choice(candidate, trial.measure(trial.start, candidate).error)
        best = min(best, choice, key=lambda one: one.alone)
    return best


def _made(draft: Draft, context: Context, like: Candidate, chain: Chain, error: float) -> Candidate:
    made = certify(draft, context, like.rule, like.kernel, chain)[0]
    return replace(made, certificate={**made.certificate, "response_error": error})


def _known_bias(draft: Draft, node: Node) -> bool:
    bias = operand(draft, node, "b")
    return bias is None or is_known(bias)


def _distance(candidate: Candidate) -> float:
    return candidate.certificate.get("response_error", candidate.certificate["weight_error"])


def _undominated(candidates: Iterable[Candidate]) -> list[Candidate]:
    kept: list[Candidate] = []
    for one in sorted(candidates, key=lambda c: (c.certificate["seconds_after"], _distance(c))):
        if not kept or _distance(one) < _distance(kept[-1]):
            kept.append(one)
    return kept


def _choices(trial: Trial, offered: Mapping[str, list[Candidate]]) -> list[Choice]:
    """Each candidate with its error alone: measured, or in proportion to that of the middle one of its convolution."""
    every = sum(trial.cost(name) * len(candidates) for name, candidates in offered.items()) <= WORK
    found: list[Choice] = []
    for candidates in offered.values():
        if every:
            found += [Choice(c, trial.measure(trial.start, c).error) for c in candidates]
            continue
        middle = candidates[len(candidates) // 2]
        slope = trial.measure(trial.start, middle).error / max(_distance(middle), 1e-12)
        found += [Choice(c, slope * _distance(c)) for c in candidates]
    return found


class _Spending:
    """One run: what is in place, the error so far, and what was taken out again."""

    def __init__(self, budget: float, trial: Trial, note: str) -> None:
        self.budget = budget
        self.trial = trial
        self.note = note
        self.error = 0.0
        self.limit = trial.work + WORK
        self.placed: dict[str, tuple[Choice, float]] = {}
        self.overshot: dict[str, str] = {}

    def run(self, graph: Graph, choices: list[Choice]) -> PassResult:
        """The graph with all chains that stayed, and the account."""
        state = self.trial.start
        waiting = [c for c in choices if c.alone <= self.budget]
        while waiting and self.trial.work < self.limit:
            best = max(waiting, key=self._worth)
            waiting.remove(best)
            state = self._try(state, best)
            waiting = [c for c in waiting if c.seconds < self._seconds(c)]
        draft = Draft(graph)
        rewrites: list[Rewrite] = []
        for name, (choice, error) in self.placed.items():
            applied = draft.apply(choice.candidate.patch(draft))
            figures = {**choice.candidate.certificate, "alone": choice.alone, "output_error": error}
            note = f"{choice.candidate.chain.note}; output error {error:.2g} of {self.budget:g}, on {self.note}"
            rule = f"near_{choice.candidate.rule}"
            rewrites.append(Rewrite(rule, name, applied.removed, applied.added, note, figures))
        return PassResult(draft.freeze(), tuple(rewrites), self._refusals(choices))

    def _seconds(self, choice: Choice) -> float:
        """Of what is in the convolution's place now."""
        placed = self.placed.get(choice.conv)
        return placed[0].seconds if placed else choice.candidate.certificate["seconds_before"]

    def _worth(self, choice: Choice) -> float:
        """Seconds gained for the error added, as far as the errors alone tell."""
        placed = self.placed.get(choice.conv)
        added = choice.alone - (placed[0].alone if placed else 0.0)
        return (self._seconds(choice) - choice.seconds) / max(added, 1e-3 * self.budget)

    def _try(self, state: State, choice: Choice) -> State:
        measured = self.trial.measure(state, choice.candidate)
        if measured.error > self.budget:
            text = f"{choice.candidate.chain.note} taken out again: output error {measured.error:.2g}"
            self.overshot[choice.conv] = f"{text} is over the budget of {self.budget:g}, from {self.error:.2g}"
            return state
        self.error = measured.error
        self.placed.pop(choice.conv, None)
        self.placed[choice.conv] = (choice, self.error)
        return measured.state

    def _refusals(self, choices: list[Choice]) -> tuple[Reject, ...]:
        """For each convolution the last chain that was taken out; or the least error that its chains make alone."""
        reasons = dict(self.overshot)
        for choice in choices:
            least = min(c.alone for c in choices if c.conv == choice.conv)
            if least > self.budget:
                reasons[choice.conv] = f"the nearest of its chains errs by {least:.2g} alone, over {self.budget:g}"
        return tuple(Reject(name, reason, NAME) for name, reason in reasons.items())


SPEND_BUDGET = SpendBudget()


def with_budget(passes: Iterable[Any], budget: float, calibration: Any) -> tuple[Any, ...]:
    """The passes with `spend_budget` among them: in its own place if it is there, else ahead of what fuses.

    Its place is before convolutions take prologues and epilogues, and after all that is exact.
    """
    spending = replace(SPEND_BUDGET, budget=budget, calibration=calibration)
    chosen = list(passes)
    names = [one.name for one in chosen]
    if NAME in names:
        chosen[names.index(NAME)] = spending
        return tuple(chosen)
    fusing = [i for i, name in enumerate(names) if name in {"commute_pooling", "fuse_prologue", "fuse_epilogue"}]
    chosen.insert(fusing[0] if fusing else len(chosen), spending)
    return tuple(chosen)
