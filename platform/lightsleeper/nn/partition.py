"""Dynamic Sequence Partitioning: cut the audio frames into one contiguous run per text token, batched and exact.

z(audio, tokens) is the least mean distance between run means and tokens over all partitions into non-empty runs
(Nishu et al., Interspeech 2023, arXiv 2306.05245, Eq. 1). The paper's recursion runs over suffixes; ours runs over
prefixes, so that a padded batch ends each row at its own (frames, tokens) corner of one table. The dynamic programme
works in float64 where the device has it: run means come from differences of prefix sums, which cancel in float32.

Shapes: A clips, B rows (one clip with one text each), N frames, M tokens, d channels. Cuts are (B, M+1), start 0,
strictly increasing to the row's frame count, which the padding repeats. A row with fewer frames than tokens, or with
no token, has no partition: z is +inf, without gradient, and its cuts are all 0.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from lightsleeper.nn.recurrence import recur

Method = Literal["dsp", "equal", "random"]

_LONGEST = 1 << 14  # frames, 11 minutes at 40 ms
_CHUNK_BYTES = 8 << 20  # of one (rows, N, N) or (rows, N, d) matrix: bounds memory; 2 to 32 MB ran equally fast


def working_dtype(device: torch.device) -> torch.dtype:
    """float64, but float32 on Apple's MPS, which has no float64; there the audio is centred first."""
    return torch.float32 if device.type == "mps" else torch.float64


def prefix_sums(audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(A, N+1, d) sums of the frames before each position, and the offset (A, 1, d) that was subtracted first.

    Frames past a clip's length count as zero whatever they hold. The offset is the mean frame in float32 and zero in
    float64: distances do not change when audio and tokens move together, but the size of the sums does.
    """
    dtype = working_dtype(audio.device)
    frames = torch.arange(audio.shape[1], device=audio.device)
    padded = (frames >= audio_lengths[:, None])[:, :, None]
    audio = audio.masked_fill(padded, 0)
    offset = audio.new_zeros(audio.shape[0], 1, audio.shape[2], dtype=dtype)
    if dtype == torch.float32:
        offset = audio.detach().sum(1, keepdim=True, dtype=dtype) / audio_lengths.clamp_min(1)[:, None, None]
        audio = audio - offset
    return F.pad(audio, (0, 0, 1, 0)).cumsum(1, dtype=dtype), offset


def dsp_partition(
    audio: Tensor, tokens: Tensor, audio_lengths: Tensor, token_lengths: Tensor, audio_index: Tensor | None = None
) -> Tensor:
    """The cuts (B, M+1) int64 of the best partition of every row; no gradient.

    audio (A, N, d), tokens (B, M, d), audio_lengths (A,), token_lengths (B,); row b hears clip ``audio_index[b]``
    (None: clip b, A == B). Memory O(B N N) in chunks and O(B N M); a B x N x N x d tensor is never built.
    """
    _check(audio, tokens, audio_lengths, token_lengths, audio_index)
    with torch.no_grad(), torch.autocast(audio.device.type, enabled=False):
        sums, offset = prefix_sums(audio, audio_lengths)
        targets = _prepare_tokens(tokens, offset, token_lengths, audio_index)
        frames, counts = _rows(audio_lengths, token_lengths, audio_index)
        return _solve(sums, targets, frames, counts, audio_index, _at_least_single(audio.dtype))


def partition_distance(
    audio: Tensor,
    tokens: Tensor,
    audio_lengths: Tensor,
    token_lengths: Tensor,
    method: Method = "dsp",
    generator: torch.Generator | None = None,
    cuts: Tensor | None = None,
    audio_index: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """z (B,) and the cuts (B, M+1) it was measured on.

    The cuts are found without gradient, then z is recomputed from them with gradient: where the best partition is
    unique this is the exact gradient of the minimum (envelope theorem). A distance of exactly zero has gradient zero.
    ``cuts`` given: only measured. ``equal`` and ``random`` are the paper's baselines, never below ``dsp``.
    Shapes as in ``dsp_partition``. Raises ValueError where shapes disagree.
    """
    _check(audio, tokens, audio_lengths, token_lengths, audio_index)
    with torch.autocast(audio.device.type, enabled=False):
        sums, offset = prefix_sums(audio, audio_lengths)
        targets = _prepare_tokens(tokens, offset, token_lengths, audio_index)
        frames, counts = _rows(audio_lengths, token_lengths, audio_index)
        if cuts is None:
            with torch.no_grad():
                if method == "dsp":
                    cuts = _solve(
                        sums.detach(), targets.detach(), frames, counts, audio_index, _at_least_single(audio.dtype)
                    )
                elif method == "equal":
                    cuts = equal_cuts(frames, counts, tokens.shape[1])
                elif method == "random":
                    cuts = random_cuts(frames, counts, tokens.shape[1], generator)
                else:
                    raise ValueError(f"method={method!r}, expected 'dsp', 'equal' or 'random'")
        z = _measure(sums, targets, cuts, frames, counts, audio_index)
    return z.to(_at_least_single(audio.dtype)), cuts


def equal_cuts(audio_lengths: Tensor, token_lengths: Tensor, max_tokens: int) -> Tensor:
    """Cuts (B, max_tokens+1) into runs of equal length, up to one frame."""
    order = torch.arange(max_tokens + 1, device=audio_lengths.device)
    cuts = order * audio_lengths[:, None] // token_lengths.clamp_min(1)[:, None]
    return _pad_cuts(cuts, audio_lengths, token_lengths)


def random_cuts(
    audio_lengths: Tensor,
    token_lengths: Tensor,
    max_tokens: int,
    generator: torch.Generator | None = None,
    same_for_all: bool = False,
) -> Tensor:
    """Cuts (B, max_tokens+1) drawn evenly from all partitions into non-empty runs.

    ``generator`` must live on the device of ``audio_lengths``. ``same_for_all``: one draw, from which each row takes
    what fits its frames and tokens, whatever the other rows are.
    """
    device, rows = audio_lengths.device, len(audio_lengths)
    inner = max(int(audio_lengths.max()) - 1, max_tokens, 1) if rows else max(max_tokens, 1)
    if same_for_all:
        # A fixed count: how many numbers are drawn decides what they are.
        drawn = torch.rand(max(inner, _LONGEST), generator=generator, device=device)[:inner]
        keys = drawn.repeat(rows, 1)
    else:
        keys = torch.rand(rows, inner, generator=generator, device=device)
    positions = torch.arange(1, inner + 1, device=device)  # a cut falls between two frames
    keys = keys.masked_fill(positions >= audio_lengths[:, None], 2.0)
    cuts = keys.argsort(1)[:, :max_tokens] + 1
    needless = torch.arange(1, max_tokens + 1, device=device) >= token_lengths[:, None]
    cuts = torch.where(needless, audio_lengths[:, None], cuts).sort(1).values
    return _pad_cuts(F.pad(cuts, (1, 0)), audio_lengths, token_lengths)


def dsp_distance_static(
    audio: Tensor, tokens: Tensor, token_lengths: Tensor, audio_lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """z (B,) and cuts (B, M+1) of audio (B, N, d) and tokens (B, M, d), for export: all but d may be dynamic.

    ``audio_lengths`` (B,): valid frames, None: all. Same answer as ``partition_distance`` but for exact ties. float32
    on centred audio; all token rows of the cost are built at once, (B, M, N, N), because a graph of few large nodes is
    faster than one of many small ones.
    """
    batch, most = tokens.shape[0], tokens.shape[1]
    frames = audio.shape[1]
    end = torch.zeros_like(token_lengths) + frames if audio_lengths is None else audio_lengths
    valid = torch.arange(frames, device=audio.device) < end[:, None]
    offset = (audio * valid[:, :, None]).sum(1, keepdim=True) / end.clamp_min(1)[:, None, None]
    audio, tokens = audio - offset, tokens - offset
    sums = F.pad(audio.cumsum(1), (0, 0, 1, 0))  # (B, N+1, d)
    position = torch.arange(frames + 1, device=audio.device)
    length = position[None, :] - position[:, None]  # (from, to)
    inverse = torch.where(length > 0, 1.0 / length.clamp_min(1), 0.0).to(audio.dtype)
    gram = sums @ sums.mT
    square = sums.square().sum(-1)
    run = (square[:, :, None] + square[:, None, :] - 2 * gram) * inverse.square()  # |mean of the run|^2
    dot = tokens @ sums.mT  # (B, M, N+1)
    cross = (dot[:, :, None, :] - dot[:, :, :, None]) * inverse
    cost = (run[:, None] - 2 * cross + tokens.square().sum(-1)[:, :, None, None]).clamp_min(0).sqrt()
    cost = torch.where(length > 0, cost, torch.inf)  # (B, M, from, to)

    first, later = (
        cost[:, 0, 0].clone(memory_format=torch.contiguous_format),
        cost[:, 1:].movedim(1, 0),
    )  # (B, to), (M-1, B, from, to)
    ends = end[None]
    if most > 1:
        _, best = recur(_extend, first, (later,))  # best[k][:, j]: k+2 runs over the first j frames
        before = torch.cat([first[None], best[:-1]])
        order = torch.arange(1, most, device=audio.device)
        used = token_lengths > order[:, None]  # (M-1, B)
        rows = (later.flip(0), before.flip(0), used.flip(0), end.expand(most - 1, batch))
        _, cuts = recur(_trace, end, rows)
        ends = torch.cat([cuts.flip(0), ends])
    # No partition: all runs empty, as in dsp_partition.
    solvable = (token_lengths >= 1) & (token_lengths <= end)
    cut = F.pad(ends.T, (1, 0)) * solvable[:, None]

    frame = position[None, None, :-1]
    inside = (frame >= cut[:, :-1, None]) & (frame < cut[:, 1:, None])  # (B, M, N)
    means = inside.to(audio.dtype) @ audio / (cut[:, 1:] - cut[:, :-1]).clamp_min(1)[:, :, None]
    distance = (means - tokens).square().sum(-1).sqrt()
    real = torch.arange(most, device=audio.device) < token_lengths[:, None]
    z = torch.where(real, distance, 0.0).sum(1) / token_lengths.clamp_min(1)
    return torch.where(solvable, z, torch.inf), cut


def _extend(best: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One more run: best (B, from) and its cost (B, from, to) to best (B, to)."""
    best = (best[:, :, None] + rows[0]).amin(1)
    return best, best.clone()


def _trace(end: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One run back: where the run that ends at ``end`` (B,) starts; rows of padding tokens keep the clip's end."""
    cost, before, used, clip_end = rows
    column = cost.gather(2, end[:, None, None].expand(-1, cost.shape[1], 1))[:, :, 0]
    end = torch.where(used, (before + column).argmin(1), clip_end)
    return end, end.clone()


def _solve(
    sums: Tensor,
    tokens: Tensor,
    frames: Tensor,
    counts: Tensor,
    audio_index: Tensor | None,
    precision: torch.dtype,
) -> Tensor:
    """Cuts of all rows, a chunk of rows at a time; sums (A, N+1, d), tokens (B, M, d), frames and counts (B,).

    ``precision`` holds the distances; their squares are made in the working precision, where they cancel.
    """
    rows, most = tokens.shape[:2]
    if rows == 0 or most == 0:
        return frames.new_zeros(rows, most + 1)
    counts = torch.where(counts > frames, 0, counts)
    shared = None if audio_index is None else runs_squared(sums)
    # Rows of many tokens first: a run is then worked out for the head of a chunk only, not for rows that have ended.
    order = counts.argsort(descending=True)
    chunk = max(_CHUNK_BYTES // (sums.shape[1] * max(sums.shape[1:]) * sums.element_size()), 1)
    cuts = frames.new_empty(rows, most + 1)
    for part in order.split(chunk):
        clip = part if audio_index is None else audio_index[part]
        unit = runs_squared(sums[clip]) if shared is None else shared[clip]
        dots = sums[clip] @ tokens[part].mT  # (rows, N+1, M)
        square = tokens[part].square().sum(-1)
        cuts[part] = _solve_chunk(unit, dots, square, frames[part], counts[part], precision)
    return cuts


def runs_squared(sums: Tensor) -> Tensor:
    """(A, to, from): squared norm of the mean of frames[from:to]; +inf where the run is empty."""
    gram = sums @ sums.mT
    square = gram.diagonal(dim1=1, dim2=2).clone()
    unit = gram.mul_(-2).add_(square[:, :, None]).add_(square[:, None, :])
    inverse = _inverse_lengths(sums.shape[1], sums)
    return unit.mul_(inverse.square()).masked_fill_(inverse == 0, torch.inf)


def _inverse_lengths(positions: int, like: Tensor) -> Tensor:
    """(to, from): one over the length of the run, 0 where it is empty."""
    position = torch.arange(positions, device=like.device, dtype=like.dtype)
    length = position[:, None] - position[None, :]
    return torch.where(length > 0, 1 / length.clamp_min(1), 0)


def _solve_chunk(
    unit: Tensor, dots: Tensor, square: Tensor, frames: Tensor, counts: Tensor, precision: torch.dtype
) -> Tensor:
    """The dynamic programme over one chunk of rows, ``counts`` (B,) falling, then the walk back.

    unit (B, N+1, N+1) of ``runs_squared``, dots (B, N+1, M) prefix sum times token, square (B, M) squared tokens.
    """
    rows, positions, most = dots.shape
    inverse = _inverse_lengths(positions, dots)
    dots = dots.mT.contiguous().mul_(-2)  # (B, M, N+1): rows of one token are contiguous
    # Run k ends at a position in [k, k + slack]: earlier leaves a run empty, later starves the runs to come.
    slack = max(int((frames - counts).masked_fill(counts == 0, 0).max()), 0)
    alive = (counts[:, None] > torch.arange(most, device=counts.device)).sum(0).tolist()  # rows that have run k

    # best[k] (alive[k], ends): least total of runs 0..k, by the end of run k in k+1 .. k+1+slack
    best: list[Tensor] = []
    for k in range(int(counts[0])):
        live = alive[k]
        ends = slice(k + 1, min(k + 2 + slack, positions))
        starts = slice(0, 1) if k == 0 else slice(k, min(k + 1 + slack, positions))
        dot = dots[:live, k]
        cost = unit[:live, ends, starts] + square[:live, k, None, None]
        cost.addcmul_(dot[:, ends, None] - dot[:, None, starts], inverse[ends, starts])
        cost = cost.to(precision).clamp_min_(0).sqrt_()
        best.append(cost[:, :, 0] if k == 0 else cost.add_(best[-1][:live, None, :]).amin(2))

    # The argmins were not kept: one column of each cost matrix is cheaper to build again than argmin is to run.
    cuts = frames[:, None].repeat(1, most + 1)
    row = torch.arange(rows, device=frames.device)
    for k in range(len(best) - 1, 0, -1):
        live = alive[k]
        starts = slice(k, min(k + 1 + slack, positions))
        end = cuts[:live, k + 1]
        dot = dots[:live, k]
        column = (dot.gather(1, end[:, None]) - dot[:, starts]) * inverse[end, starts] + unit[row[:live], end, starts]
        column = (column + square[:live, k, None]).to(precision).clamp_min_(0).sqrt_().add_(best[k - 1][:live])
        cuts[:live, k] = column.argmin(1) + k
    cuts[:, 0] = 0
    return cuts.masked_fill_((counts == 0)[:, None], 0)


def _measure(
    sums: Tensor, tokens: Tensor, cuts: Tensor, frames: Tensor, counts: Tensor, audio_index: Tensor | None
) -> Tensor:
    """Mean distance (B,) between tokens (B, M, d) and the means of the runs between cuts (B, M+1)."""
    clips = torch.arange(len(tokens), device=tokens.device) if audio_index is None else audio_index
    flat = (clips[:, None] * sums.shape[1] + cuts).flatten()
    at_cuts = sums.flatten(0, 1).index_select(0, flat).unflatten(0, cuts.shape)  # (B, M+1, d)
    means = at_cuts.diff(dim=1) / cuts.diff(dim=1).clamp_min(1)[:, :, None]
    # vector_norm, not sqrt(square + epsilon): its gradient at zero is defined as zero and its value is exact.
    distance = torch.linalg.vector_norm(means - tokens, dim=2)
    real = torch.arange(tokens.shape[1], device=tokens.device) < counts[:, None]
    z = distance.masked_fill(~real, 0).sum(1) / counts.clamp_min(1)
    return torch.where((counts >= 1) & (counts <= frames), z, torch.inf)


def _prepare_tokens(tokens: Tensor, offset: Tensor, token_lengths: Tensor, audio_index: Tensor | None) -> Tensor:
    """Tokens in the working precision, moved with the audio, zero where padded (so that padding may hold anything)."""
    moved = tokens.to(offset.dtype) - (offset if audio_index is None else offset[audio_index])
    padded = torch.arange(tokens.shape[1], device=tokens.device) >= token_lengths[:, None]
    return moved.masked_fill(padded[:, :, None], 0)


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rows(audio_lengths: Tensor, token_lengths: Tensor, audio_index: Tensor | None) -> tuple[Tensor, Tensor]:
    frames = audio_lengths if audio_index is None else audio_lengths[audio_index]
    return frames.to(torch.int64), token_lengths.to(torch.int64)


def _pad_cuts(cuts: Tensor, audio_lengths: Tensor, token_lengths: Tensor) -> Tensor:
    """Cuts with the row's end repeated past its tokens, all 0 where there is no partition."""
    order = torch.arange(cuts.shape[1], device=cuts.device)
    cuts = torch.where(order >= token_lengths[:, None], audio_lengths[:, None], cuts)
    solvable = (token_lengths >= 1) & (token_lengths <= audio_lengths)
    return cuts.to(torch.int64) * solvable[:, None]


def _check(
    audio: Tensor, tokens: Tensor, audio_lengths: Tensor, token_lengths: Tensor, audio_index: Tensor | None
) -> None:
    if audio.ndim != 3 or tokens.ndim != 3 or audio.shape[2] != tokens.shape[2]:
        shapes = f"audio {tuple(audio.shape)} and tokens {tuple(tokens.shape)}"
        raise ValueError(f"{shapes}: expected (A, N, d) and (B, M, d)")
    index_rows = len(audio) if audio_index is None else len(audio_index)
    if len(audio_lengths) != len(audio) or not len(token_lengths) == len(tokens) == index_rows:
        raise ValueError(
            f"{len(audio)} clips with {len(audio_lengths)} lengths, {len(tokens)} texts with {len(token_lengths)} "
            f"lengths and {index_rows} clip indices: expected one length per clip, one length and one clip per text"
        )
