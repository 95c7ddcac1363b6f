"""How much better a text explains a clip than every text one phone away from it: what tells "light" from "lights".

For each phone of a text: the best CTC path of the text, less that of the best text with this phone replaced, without
it, and with one more beside it. All C (2 M + 1) + M neighbours come out of one forward and one backward pass, about
2 C passes' work in place of one pass for each. Best paths stand for sums over paths, which took four times as long and
told pairs apart as well (validation AUC 0.898 and 0.899).

The idea is that of alignment-free pronunciation scores under CTC (Cao et al., Interspeech 2024), which ask about
substitutions and deletions; the form here is our own.

Shapes: B rows, M phones, N frames, C classes, class 0 is blank. Between and around M labels lie M + 1 blanks.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.nn.recurrence import recur
from lightsleeper.phones import BLANK

IMPOSSIBLE = -1e5  # finite, so that differences stay numbers
Paths = tuple[Tensor, Tensor]
LARGEST = 60.0  # of a margin, in nats: beyond it nothing is left to tell apart


class Edits(NamedTuple):
    """Best CTC paths, in nats; `IMPOSSIBLE` or below where there is none."""

    own: Tensor
    """(B,) of the text."""
    replaced: Tensor
    """(B, M, C) of the text with class c in place of phone k, the text itself where c is that phone."""
    left_out: Tensor
    """(B, M) of the text without phone k."""
    put_in: Tensor
    """(B, M+1, C) of the text with class c before phone k, or behind the last."""


@torch.no_grad()
def edits(log_probs: Tensor, frames: Tensor, phones: Tensor) -> Edits:
    """Of log_probs (B, N, C), ``frames`` (B,) of them valid, and phones (B, M), 0-padded.

    What stands at padding, and at class blank, means nothing. Three loops in PyTorch, three Scan nodes in a graph.
    """
    with torch.autocast(log_probs.device.type, enabled=False):
        return _edits(log_probs.float(), frames, phones)


def _edits(log_probs: Tensor, frames: Tensor, phones: Tensor) -> Edits:
    count = (phones != BLANK).sum(1)
    classes = torch.arange(log_probs.shape[2], device=phones.device)
    time = torch.arange(log_probs.shape[1] + 1, device=phones.device)
    # Behind its end a clip says nothing, for one frame at least: every path then ends in the last blank.
    silence = torch.where(classes == BLANK, 0.0, IMPOSSIBLE).to(log_probs)
    heard = torch.where((time < frames[:, None])[..., None], F.pad(log_probs, (0, 0, 0, 1)), silence)  # (B, N+1, C)
    labels = heard.gather(2, phones[:, None].expand(-1, heard.shape[1], -1))
    # As many labels as blanks, the last of them never heard: state k is label k, behind blank k.
    labels = F.pad(torch.where((phones != BLANK)[:, None], labels, IMPOSSIBLE), (0, 1), value=IMPOSSIBLE)
    heard, labels = heard.transpose(0, 1), labels.transpose(0, 1)  # (N+1, B, .)
    order = torch.arange(labels.shape[2], device=phones.device)
    follows = F.pad((phones[:, 1:] == phones[:, :-1]).to(heard) * IMPOSSIBLE, (1, 1))  # (B, M+1) to label k from k - 1

    def forward(paths: Paths, frame: tuple[Tensor, ...]) -> tuple[Paths, Paths]:
        """One frame on: best paths (B, M+1) that end in each blank, and in each label; put out are those before it."""
        silent, said = frame
        blank, label = paths
        came = _from_before(label)
        entered = torch.maximum(blank, came + follows)
        onward = torch.maximum(blank, came) + silent, torch.maximum(label, entered) + said
        return onward, (blank.clone(), label.clone())

    def backward(paths: Paths, frame: tuple[Tensor, ...]) -> tuple[Paths, Paths]:
        """One frame back: put out the best paths from each state at this frame on; carried is what follows a state."""
        silent, said = frame
        blank, label = paths[0] + silent, paths[1] + said
        left = _from_behind(torch.maximum(blank, label + follows))
        return (torch.maximum(blank, label), torch.maximum(label, left)), (blank, label)

    silent = heard[..., :1]
    nothing = torch.full_like(labels[0], IMPOSSIBLE)
    begin = torch.where(order == 0, 0.0, nothing)
    last = torch.where(order == count[:, None], 0.0, nothing)
    (final, _), (was_blank, was_label) = recur(forward, (begin, nothing), (silent, labels))
    _, (to_blank, to_label) = recur(backward, (last, nothing.clone()), (silent.flip(0), labels.flip(0)))
    to_blank, to_label = to_blank.flip(0), to_label.flip(0)
    was_label = _from_before(was_label)  # label k - 1 at blank k
    behind, ahead = F.pad(phones, (1, 0)), F.pad(phones, (0, 1))  # of each blank
    own = final.gather(1, count[:, None])[:, 0]

    # A class in place of label k comes from blank k or label k - 1 and goes to blank k + 1 or label k + 1; one that is
    # put in comes from blank j or label j - 1 and goes back to blank j or to label j.
    stretch = (
        torch.cat([was_blank[:-1, :, :-1], was_blank[:-1]], 2),
        torch.cat([was_label[:-1, :, :-1], was_label[:-1]], 2),
        torch.cat([to_blank[1:, :, 1:], to_blank[1:]], 2),
        torch.cat([to_label[1:, :, 1:], to_label[1:]], 2),
    )
    # No path from a label to its like: (B, 2 M + 1, C).
    from_like = (torch.cat([behind[:, :-1], behind], 1)[..., None] == classes).to(heard) * IMPOSSIBLE
    to_like = (torch.cat([ahead[:, 1:], ahead], 1)[..., None] == classes).to(heard) * IMPOSSIBLE

    def through(paths: Paths, frame: tuple[Tensor, ...]) -> tuple[Paths, Tensor]:
        """One frame of every edit (B, 2 M + 1, C): paths that are in the new phone, and the best that has left it.

        A scan must put something out; that is not used.
        """
        from_blank, from_label, to_blank, to_label, said = frame
        inside, best = paths
        entered = torch.maximum(from_blank, from_label + from_like)
        inside = torch.maximum(inside, entered) + said
        left = inside + torch.maximum(to_blank, to_label + to_like)
        return (inside, torch.maximum(best, left)), said.clone()

    nowhere = torch.full_like(from_like, IMPOSSIBLE)
    rows = (*(part[..., None] for part in stretch), heard[:-1, :, None])
    (_, best), _ = recur(through, (nowhere, nowhere.clone()), rows)

    blanks = labels.shape[2]
    skipped = torch.where(behind[:, :-1] == ahead[:, 1:], IMPOSSIBLE, 0.0) + was_label[..., :-1]
    left_out = (torch.maximum(was_blank[..., :-1], skipped) + to_label[..., 1:]).amax(0)
    ended = order[:-1] == (count - 1)[:, None]  # without its last phone a text ends in the blank before it
    left_out = torch.where(ended, final[:, : blanks - 1], left_out)
    return Edits(own, best[:, : blanks - 1], left_out, best[:, blanks - 1 :])


def _from_before(states: Tensor) -> Tensor:
    """Each state's place holds the one before."""
    return F.pad(states[..., :-1], (1, 0), value=IMPOSSIBLE)


def _from_behind(states: Tensor) -> Tensor:
    return F.pad(states[..., 1:], (0, 1), value=IMPOSSIBLE)


MARGINS = 5


def margins(log_probs: Tensor, frames: Tensor, phones: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a text is ahead of its neighbours: margins (B, M, MARGINS) in nats, rivals (B, M), and ``fit`` (B,).

    Margins of each phone: over the best replacement, over all replacements together, over the text without the phone,
    and over the best insertion before and behind it; 0 at padding. A rival is the class of the best replacement.
    ``fit`` is the best path of the text less the best of all, per phone, at most 0.
    """
    found = edits(log_probs, frames, phones)
    classes = torch.arange(log_probs.shape[2], device=phones.device)
    blank = (classes == BLANK).to(found.own.dtype) * IMPOSSIBLE
    others = torch.where(phones[..., None] == classes, 2 * IMPOSSIBLE, found.replaced) + blank
    strongest, rival = others.max(-1)
    inserted = (found.put_in + blank).amax(-1)
    count = (phones != BLANK).sum(1)
    alone = (count == 1)[:, None]  # without its only phone nothing is left of a text
    without = torch.where(alone, IMPOSSIBLE, found.left_out)
    neighbours = [strongest, others.logsumexp(-1), without, inserted[:, :-1], inserted[:, 1:]]
    ahead = (found.own[:, None, None] - torch.stack(neighbours, -1)).clamp(-LARGEST, LARGEST)
    time = torch.arange(log_probs.shape[1], device=phones.device)
    best = (log_probs.float().amax(-1) * (time < frames[:, None])).sum(1)
    fit = (found.own - best) / count.clamp_min(1)
    return ahead * (phones != BLANK)[..., None], rival, fit
