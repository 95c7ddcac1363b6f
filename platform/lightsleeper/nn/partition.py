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
from torch import Tensor

Method = Literal["dsp", "equal", "random"]

_CHUNK_BYTES = 32 << 20  # of one (rows, N, N) matrix; bounds the memory of thousands of rows on few clips


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
    audio = audio.to(dtype).masked_fill(padded, 0)
    offset = audio.new_zeros(audio.shape[0], 1, audio.shape[2])
    if dtype == torch.float32:
        offset = audio.detach().sum(1, keepdim=True) / audio_lengths.clamp_min(1)[:, None, None]
        audio = (audio - offset).masked_fill(padded, 0)
    return torch.nn.functional.pad(audio.cumsum(1), (0, 0, 1, 0)), offset


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
        return _solve(sums, _prepare_tokens(tokens, offset, token_lengths, audio_index), *_rows(
            audio_lengths, token_lengths, audio_index), audio_index)  # fmt: skip


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
                    cuts = _solve(sums.detach(), targets.detach(), frames, counts, audio_index)
                elif method == "equal":
                    cuts = equal_cuts(frames, counts, tokens.shape[1])
                elif method == "random":
                    cuts = random_cuts(frames, counts, tokens.shape[1], generator)
                else:
                    raise ValueError(f"method={method!r}, expected 'dsp', 'equal' or 'random'")
        z = _measure(sums, targets, cuts, frames, counts, audio_index)
    return z.to(torch.promote_types(audio.dtype, torch.float32)), cuts


def equal_cuts(audio_lengths: Tensor, token_lengths: Tensor, max_tokens: int) -> Tensor:
    """Cuts (B, max_tokens+1) into runs of equal length, up to one frame."""
    order = torch.arange(max_tokens + 1, device=audio_lengths.device)
    cuts = order * audio_lengths[:, None] // token_lengths.clamp_min(1)[:, None]
    return _pad_cuts(cuts, audio_lengths, token_lengths)


def random_cuts(
    audio_lengths: Tensor, token_lengths: Tensor, max_tokens: int, generator: torch.Generator | None = None
) -> Tensor:
    """Cuts (B, max_tokens+1) drawn evenly from all partitions into non-empty runs.

    ``generator`` must live on the device of ``audio_lengths``.
    """
    device, rows = audio_lengths.device, len(audio_lengths)
    inner = max(int(audio_lengths.max()) - 1, max_tokens, 1) if rows else max(max_tokens, 1)
    keys = torch.rand(rows, inner, generator=generator, device=device)
    positions = torch.arange(1, inner + 1, device=device)  # a cut falls between two frames
    keys = keys.masked_fill(positions >= audio_lengths[:, None], 2.0)
    cuts = keys.argsort(1)[:, :max_tokens] + 1
    needless = torch.arange(1, max_tokens + 1, device=device) >= token_lengths[:, None]
    cuts = torch.where(needless, audio_lengths[:, None], cuts).sort(1).values
    return _pad_cuts(torch.nn.functional.pad(cuts, (1, 0)), audio_lengths, token_lengths)


def dsp_distance_static(audio: Tensor, tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """z (B,) and cuts (B, M+1) of unpadded audio (B, N, d), for export: N may be dynamic, M is unrolled.

    Same answer as ``partition_distance`` but for exact ties. float32 on centred audio; all token rows of the cost are
    built at once, (B, M, N, N), because a graph of few large nodes runs faster than one of many small ones.
    """
    batch, most = tokens.shape[0], tokens.shape[1]
    frames = audio.shape[1]
    offset = audio.mean(1, keepdim=True)
    audio, tokens = audio - offset, tokens - offset
    sums = torch.nn.functional.pad(audio.cumsum(1), (0, 0, 1, 0))  # (B, N+1, d)
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

    best = [cost[:, 0, 0]]  # best[k][:, j]: k+1 runs over the first j frames
    for k in range(1, most):
        best.append((best[-1][:, :, None] + cost[:, k]).amin(1))
    end = torch.zeros_like(token_lengths) + frames
    cuts = [end]
    for k in range(most - 1, 0, -1):
        column = cost[:, k].gather(2, cuts[0][:, None, None].expand(batch, frames + 1, 1))[:, :, 0]
        cuts.insert(0, torch.where(token_lengths > k, (best[k - 1] + column).argmin(1), end))
    # No partition: all runs empty, as in dsp_partition.
    solvable = (token_lengths >= 1) & (token_lengths <= frames)
    cut = torch.stack([torch.zeros_like(token_lengths), *cuts], 1) * solvable[:, None]

    frame = position[None, None, :-1]
    inside = (frame >= cut[:, :-1, None]) & (frame < cut[:, 1:, None])  # (B, M, N)
    means = inside.to(audio.dtype) @ audio / (cut[:, 1:] - cut[:, :-1]).clamp_min(1)[:, :, None]
    distance = (means - tokens).square().sum(-1).sqrt()
    real = torch.arange(most, device=audio.device) < token_lengths[:, None]
    z = torch.where(real, distance, 0.0).sum(1) / token_lengths.clamp_min(1)
    return torch.where(solvable, z, torch.inf), cut


def _solve(sums: Tensor, tokens: Tensor, frames: Tensor, counts: Tensor, audio_index: Tensor | None) -> Tensor:
    """Cuts of all rows, a chunk of rows at a time; sums (A, N+1, d), tokens (B, M, d), frames and counts (B,)."""
    rows, most = tokens.shape[:2]
    if rows == 0 or most == 0:
        return frames.new_zeros(rows, most + 1)
    counts = torch.where(counts > frames, 0, counts)
    # Run k ends at a position in [k, k + slack]: earlier leaves a run empty, later starves the runs to come.
    slack = max(int((frames - counts).masked_fill(counts == 0, 0).max()), 0)
    unit = runs_squared(sums)
    per_row = max((slack + 1) ** 2, 0 if audio_index is None else sums.shape[1] * sums.shape[2]) * sums.element_size()
    chunk = max(_CHUNK_BYTES // per_row, 1)
    cuts = []
    for start in range(0, rows, chunk):
        part = slice(start, start + chunk)
        clips: Tensor | slice = part if audio_index is None else audio_index[part]
        dots = sums[clips] @ tokens[part].mT  # (rows, N+1, M)
        square = tokens[part].square().sum(-1)
        cuts.append(_solve_chunk(unit, clips, dots, square, frames[part], counts[part], slack))
    return torch.cat(cuts)


def runs_squared(sums: Tensor) -> Tensor:
    """(A, to, from): squared norm of the mean of frames[from:to]; +inf where the run is empty."""
    gram = sums @ sums.mT
    square = gram.diagonal(dim1=1, dim2=2)
    unit = gram.mul_(-2).add_(square[:, :, None].clone().div_(-2) if False else 0)
    return unit
