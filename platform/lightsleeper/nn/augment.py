"""Feature-domain augmentation for training: vocal-tract warp, additive noise, SpecAugment masks.

Works on log-mel power before normalisation, on whole batches, for well under a millisecond a clip.
"""

import torch
from torch import Tensor, nn


class FeatureAugment(nn.Module):
    """Active in training only.

    The frequency warp stretches the mel axis by a factor drawn from [1 - warp, 1 + warp]: it moves formants as another
    vocal tract would, which a handful of synthetic voices cannot. ``freq_share`` and ``time_share``: widest mask, as a
    share of the bands and of the frames.
    """

    def __init__(
        self,
        warp: float = 0.12,
        noise: float = 0.5,
        freq_masks: int = 2,
        time_masks: int = 1,
        freq_share: float = 0.15,
        time_share: float = 0.12,
    ) -> None:
        super().__init__()
        self.warp, self.noise = warp, noise
        self.freq_masks, self.time_masks = freq_masks, time_masks
        self.freq_share, self.time_share = freq_share, time_share

    def forward(self, mel: Tensor, lengths: Tensor) -> Tensor:
        """Log-mel power (B, T, mel) with ``lengths`` (B,) frames to the same shape."""
        if not self.training:
            return mel
        valid = (torch.arange(mel.shape[1], device=mel.device) < lengths[:, None])[:, :, None]  # (B, T, 1)
        mel = self._noise(self._warp(mel), valid)
        return self._mask(mel, lengths, valid)

    def _warp(self, mel: Tensor) -> Tensor:
        batch, _, bands = mel.shape
        factor = 1 + (torch.rand(batch, 1, device=mel.device) * 2 - 1) * self.warp
        source = (torch.arange(bands, device=mel.device) * factor).clamp(max=bands - 1)  # (B, mel)
        low = source.floor().long().clamp(max=bands - 2)
        part = source - low
        matrix = torch.zeros(batch, bands, bands, device=mel.device)
        matrix.scatter_(1, low[:, None, :], (1 - part)[:, None, :])
        matrix.scatter_(1, low[:, None, :] + 1, part[:, None, :])
        return mel @ matrix

    def _noise(self, mel: Tensor, valid: Tensor) -> Tensor:
        """Stationary noise of random tilt at 0-30 dB below the clip's mean power, on a share of the clips."""
        batch, frames, bands = mel.shape
        level = _mean(mel.exp(), valid).clamp_min(1e-8).log()
        drop = torch.rand(batch, 1, 1, device=mel.device) * 6.9  # 30 dB in natural log power
        tilt = (torch.rand(batch, 1, 1, device=mel.device) - 0.5) * torch.linspace(-4, 4, bands, device=mel.device)
        ripple = torch.rand(batch, frames, bands, device=mel.device).clamp_min(1e-3).log()
        noisy = torch.logaddexp(mel, level - drop + tilt + ripple)
        chosen = torch.rand(batch, 1, 1, device=mel.device) < self.noise
        return torch.where(chosen, noisy, mel)

    def _mask(self, mel: Tensor, lengths: Tensor, valid: Tensor) -> Tensor:
        batch, frames, bands = mel.shape
        fill = _mean(mel, valid)
        hidden = torch.zeros(batch, frames, bands, dtype=torch.bool, device=mel.device)
        for _ in range(self.freq_masks):
            width = torch.rand(batch, 1, device=mel.device) * (bands * self.freq_share)
            start = torch.rand(batch, 1, device=mel.device) * (bands - width)
            axis = torch.arange(bands, device=mel.device)
            hidden |= ((axis >= start) & (axis < start + width))[:, None, :]
        for _ in range(self.time_masks):
            width = torch.rand(batch, 1, device=mel.device) * (lengths[:, None] * self.time_share)
            start = torch.rand(batch, 1, device=mel.device) * (lengths[:, None] - width)
            axis = torch.arange(frames, device=mel.device)
            hidden |= ((axis >= start) & (axis < start + width))[:, :, None]
        return torch.where(hidden, fill, mel)


def _mean(mel: Tensor, valid: Tensor) -> Tensor:
    """Of each clip (B, 1, 1), over its own frames: it must not depend on how long its neighbours are."""
    return (mel * valid).sum((1, 2), keepdim=True) / (valid.sum((1, 2), keepdim=True) * mel.shape[2]).clamp_min(1)


def random_gain(audio: Tensor, gain_db: tuple[float, float] | None) -> Tensor:
    """Clips (B, S) louder or softer by a gain drawn for each from lowest to highest, clipped to [-1, 1]."""
    if gain_db is None:
        return audio
    low, high = gain_db
    gain = low + (high - low) * torch.rand(len(audio), 1, device=audio.device)
    return (audio * 10 ** (gain / 20)).clamp(-1, 1)
