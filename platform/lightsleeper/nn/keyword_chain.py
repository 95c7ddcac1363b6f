"""A keyword as a chain of states over frame posteriors: the HMM of a DNN-HMM detector (papers/heimdal 9).

    V_t(1) = s_t(1) + max(V_{t-1}(1) + log a_self, 0)
    V_t(k) = s_t(k) + max(V_{t-1}(k) + log a_self, V_{t-1}(k-1) + log a_next)

``s`` are log-likelihood ratios against the filler, so that 0 is what the frames are worth without the keyword and a
constant added to all log posteriors changes nothing. The frame in which the best path entered goes along: start and end
of the keyword for free. A path older than ``longest`` frames is dropped, so that nothing grows with time.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lightsleeper.nn.causal import Causal, Shape
from lightsleeper.nn.recurrence import recur

NEVER = float("-inf")
FLOOR = -20.0  # score of a frame that no path has reached yet


def chain_step(carry: Tensor, rows: Tensor, self_log: float, next_log: float, longest: int) -> Tensor:
    """One frame. ``carry`` (B, 2K): V and the ages of the paths in frames, 0 where there is none; ``rows`` (B, K)."""
    states = rows.shape[1]
    before, ages = carry[:, :states], carry[:, states:]
    alive = (ages > 0) & (ages < longest)
    before = torch.where(alive, before, NEVER)
    stay = before + self_log
    # A path enters the first state for nothing; into the others it comes from the state before.
    enter = torch.cat([torch.zeros_like(before[:, :1]), before[:, :-1] + next_log], 1)
    enter_ages = torch.cat([torch.zeros_like(ages[:, :1]), ages[:, :-1]], 1)
    staying = stay > enter  # at equal scores the younger path goes on
    best = torch.where(staying, stay, enter)
    reached = best > NEVER
    value = torch.where(reached, torch.where(reached, best, 0.0) + rows, 0.0)
    age = torch.where(reached, torch.where(staying, ages, enter_ages) + 1, 0.0)
    return torch.cat([value, age], 1).reshape(carry.shape)  # ties the shapes for the exporter


class KeywordChain(Causal):
    """Frame scores (B, K, T) to (B, 2, T): V of the last state per frame of its path, and the path's frames.

    Exact Viterbi over paths of up to ``longest`` frames, but for paths that one older than that has beaten. Where no
    path has reached the last state, the score is FLOOR and the frames are 0. The gradient follows the best path.

    Args:
        states: K.
        stay: probability of staying in a state; leaving it has the rest.
        longest: frames after which a path is dropped.
    """

    def __init__(self, states: int, stay: float = 0.5, longest: int = 150) -> None:
        super().__init__()
        if states < 1 or longest < states:
            raise ValueError(f"a chain of {states} states and paths of up to {longest} frames fit no keyword")
        if not 0 < stay < 1:
            raise ValueError(f"stay must be a probability between 0 and 1; got {stay}")
        self.states, self.longest, self.past = states, longest, longest - 1
        self.self_log, self.next_log = math.log(stay), math.log(1 - stay)

    @property
    def pieces(self) -> list[Shape]:
        return [(2 * self.states,)]

    def paths(self, scores: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """V (B, T) and age (B, T) of the last state, age 0 where it was not reached, and the new state."""
        states, self_log, next_log, longest = self.states, self.self_log, self.next_log, self.longest

        def step(carry: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            carry = chain_step(carry, rows[0], self_log, next_log, longest)
            return carry, torch.stack([carry[:, states - 1], carry[:, -1]], 1)

        # A copy: the exporter's scan wants its carry in one piece, and a state is part of a longer row.
        state, last = recur(
            step, state.clone(memory_format=torch.contiguous_format), (scores.permute(2, 0, 1),)
        )  # (T, B, 2)
        return last[..., 0].T, last[..., 1].T, state

    def step(self, x: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        value, age, state = self.paths(x, kept[0])
        score = torch.where(age > 0, value / age.clamp(min=1), FLOOR)
        return torch.stack([score.clamp(min=FLOOR), age], 1), [state]

    def window_scores(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Best path per frame (N,) that begins with the first and ends in the last state with frame ``lengths`` (N,).

        ``scores`` (N, K, T). A window shorter than the chain has none: FLOOR.
        """
        value = torch.full_like(scores[:, :, 0], NEVER)
        value[:, 0] = scores[:, 0, 0]
        found = torch.where(lengths == 1, value[:, -1], NEVER)
        for frame in range(1, int(lengths.max())):
            moved = torch.cat([torch.full_like(value[:, :1], NEVER), value[:, :-1] + self.next_log], 1)
            value = torch.maximum(value + self.self_log, moved) + scores[:, :, frame]
            found = torch.where(lengths == frame + 1, value[:, -1], found)
        reached = found > NEVER
        return torch.where(reached, torch.where(reached, found, 0.0) / lengths, FLOOR)


# Training targets and losses. Classes: 0 silence, 1 filler, 2.. the states of the chain.

SILENCE, FILLER, FIRST = 0, 1, 2
UNKNOWN, NOT_KEYWORD = -1, -2  # frames that teach nothing; silence or filler, whichever the network finds


def state_targets(times: Tensor, begin: Tensor, end: Tensor, phones: Tensor | None, states: int) -> Tensor:
    """Classes (B, T) of frames at ``times`` (T,) s from the keyword's times (B,), nan where there is none.

    The keyword's phones share the states evenly, each by its own length, where ``phones`` (B, F) at 10 ms are known for
    all of it and are no more than the states; else the states share the keyword evenly. Outside: phone 0 is silence,
    others filler, -1 NOT_KEYWORD.
    """
    batch = len(begin)
    targets = torch.full((batch, len(times)), NOT_KEYWORD, device=times.device)
    middle = times.double() - 0.01  # the newest 20 ms a frame sees lie around here
    if phones is not None and phones.shape[1]:
        at = (middle * 100).long().clamp(0, phones.shape[1] - 1)
        known = phones[:, at]  # (B, T)
        targets = torch.where(known == 0, SILENCE, torch.where(known > 0, FILLER, targets))
    for row in range(batch):  # keyword clips only: a part of the batch
        if math.isnan(float(begin[row])):
            continue
        first, last = float(begin[row]), float(end[row])
        inside = (middle >= first) & (middle < last)
        place = _places(middle[inside], first, last, None if phones is None else phones[row])
        targets[row, inside] = FIRST + (place * states).long().clamp(0, states - 1)
    return targets


def _places(times: Tensor, begin: float, end: float, phones: Tensor | None) -> Tensor:
    """How far through the keyword each time is, 0 to 1: in phones where they are known, else in seconds."""
    if phones is not None:
        first, last = round(begin * 100), min(round(end * 100), len(phones))
        said = phones[first:last]
        if len(said) and bool((said > 0).all()):
            _, counts = said.unique_consecutive(return_counts=True)
            edges = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).double() / 100 + first / 100
            segment = torch.searchsorted(edges, times.contiguous(), right=True).clamp(1, len(counts)) - 1
            within = (times - edges[segment]) / (edges[segment + 1] - edges[segment])
            return ((segment + within.clamp(0, 1)) / len(counts)).clamp(0, 1)
    return (times - begin) / max(end - begin, 1e-3)


def state_loss(log_probs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy (B,) of ``log_probs`` (B, classes, T) against `state_targets`, mean over the frames that teach."""
    outside = log_probs[:, [SILENCE, FILLER]].logsumexp(1)
    chosen = log_probs.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    loss = -torch.where(targets == NOT_KEYWORD, outside, chosen) * (targets != UNKNOWN)
    return loss.sum(1) / (targets != UNKNOWN).sum(1).clamp(min=1)


def sample_windows(
    begin: Tensor, end: Tensor, frames: int, frame_s: float, count: int, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Windows (B, count) as first frame and length whose overlap (IoU) with the keyword is from ``low`` to ``high``.

    Both ends are drawn around the keyword's; where no draw fits, the window is the keyword itself (``high`` 1) or has
    length 0. Draws from torch's generator.
    """
    first, last = begin[:, None, None] / frame_s, end[:, None, None] / frame_s  # (B, 1, 1) in frames
    draws = torch.rand(2, len(begin), count, 16, device=begin.device)
    length = last - first
    start = (first + (draws[0] - 0.5) * 2 * length).round().clamp(0, frames - 1)
    stop = (last + (draws[1] - 0.5) * 2 * length).round().clamp(1, frames)
    shared = (torch.minimum(stop, last) - torch.maximum(start, first)).clamp(min=0)
    overlap = shared / (torch.maximum(stop, last) - torch.minimum(start, first)).clamp(min=1e-9)
    fits = (overlap >= low) & (overlap <= high) & (stop > start)
    pick = fits.to(torch.int8).argmax(-1, keepdim=True)
    start, stop = start.gather(-1, pick)[..., 0], stop.gather(-1, pick)[..., 0]
    found = fits.any(-1)
    if high >= 1:
        start = torch.where(found, start, first[..., 0].round().clamp(0, frames - 1))
        stop = torch.where(found, stop, last[..., 0].round().clamp(1, frames))
        found = torch.ones_like(found)
    return start.long(), ((stop - start) * found).long()


def take_windows(scores: Tensor, start: Tensor, lengths: Tensor) -> Tensor:
    """Frames (B * N, K, longest) of ``scores`` (B, K, T) from ``start`` (B, N) on; behind a window's end repeats."""
    longest = max(int(lengths.max()), 1)
    at = (start[..., None] + torch.arange(longest, device=start.device)).clamp(max=scores.shape[2] - 1)  # (B, N, L)
    picked = scores[:, None].expand(-1, start.shape[1], -1, -1)
    index = at[:, :, None].expand(-1, -1, scores.shape[1], -1)
    return picked.gather(3, index).flatten(0, 1)
