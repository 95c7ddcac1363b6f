"""Log-mel front end inside the model, so that training, streaming and the exported graph share one definition.

No centre padding: frame t sees samples [t * hop, t * hop + window), frames = floor((samples - window) / hop) + 1
(papers/kws_benchmarks, section 8.1). The FFT length equals the window (400 points at 16 kHz): with a longer FFT
``torch.stft`` would need more samples than the window and lose frames at the end.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank

from lightsleeper.nn.dft import WindowedPower

ROOM_FLOOR = 10 ** (-20 / 10)
"""Power under every band, as a share of the clip's mean power: what lies below is as good as noise.

Without it an encoder trained on noisy phrases meets clean recordings as something new. 20 dB was chosen on two speakers
of spoken digits, who gained 4.6 points of AUC without retraining; synthetic validation lost 0.5 (docs/results.md).
"""
LOG_FLOOR = 1e-4  # 60 to 90 dB under speech; at 1e-5 the rounding of FFTs already moved exported scores by 1e-3


class LogMel(nn.Module):
    """Waveform to normalised log-mel features.

    ``normalize="clip"`` fills a floor under the clip's mean power and subtracts its mean per band: a fixed channel
    (microphone, telephone) and faint noise disappear, but the whole clip is needed. ``"running"`` does the same with
    the frames so far, their mean blended with a learned prior worth ``PRIOR_FRAMES`` frames, and streams. ``"none"``
    only scales.
    """

    bank: Tensor
    taper: Tensor
    rows: Tensor
    PRIOR_FRAMES = 30.0  # 0.3 s: enough to steady the first syllable, little enough to follow the channel

    def __init__(
        self,
        n_mels: int = 40,
        sample_rate: int = 16_000,
        window_ms: float = 25.0,
        hop_ms: float = 10.0,
        normalize: Literal["clip", "running", "none"] = "clip",
    ) -> None:
        super().__init__()
        self.n_mels = n_mels
        self.sample_rate = sample_rate
        self.window = round(sample_rate * window_ms / 1000)  # samples
        self.hop = round(sample_rate * hop_ms / 1000)  # samples
        self.normalize = normalize
        bank = mel_filter_bank(
            num_frequency_bins=self.window // 2 + 1,
            num_mel_filters=n_mels,
            min_frequency=60.0,
            max_frequency=min(7600.0, sample_rate / 2),
            sampling_rate=sample_rate,
            norm=None,
            mel_scale="htk",
        )
        self.register_buffer("bank", torch.tensor(bank, dtype=torch.float32), persistent=False)  # (bins, mel)
        self.register_buffer("taper", torch.hann_window(self.window, periodic=False), persistent=False)
        self.spectrum = WindowedPower(self.window, self.hop, self.taper)  # in exported graphs, in place of torch.stft
        self.register_buffer("rows", self.spectrum.weights(self.bank), persistent=False)  # the bank, as it takes it
        if normalize == "running":
            self.prior = nn.Parameter(torch.full((n_mels,), -6.0))

    def frames(self, samples: Tensor) -> Tensor:
        """Frames in ``samples`` samples; zero when there is not one whole window."""
        return ((samples - self.window).div(self.hop, rounding_mode="floor") + 1).clamp(min=0)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a frame in an exported graph."""
        return self.spectrum.macs + self.rows.numel()

    def power(self, audio: Tensor, whole_hops: bool = False) -> Tensor:
        """Log-mel power (B, T, mel) of audio (B, S), not normalised. Needs one whole window.

        float32 in mixed precision too; float64 where the module was made so.

        ``whole_hops``: S is known to be a multiple of the hop, which spares an exported graph a cut.
        """
        with torch.autocast(audio.device.type, enabled=False):  # squared magnitudes lose their floor in bf16
            if torch.compiler.is_exporting():
                block = self.spectrum.block
                cut = audio if whole_hops else audio[:, : audio.shape[1] // block * block]
                return F.conv1d(self.spectrum(self._precise(cut)), self.rows).clamp_min(LOG_FLOOR).log().transpose(1, 2)
            spectrum = torch.stft(
                self._precise(audio),
                self.window,
                hop_length=self.hop,
                window=self.taper,
                center=False,
                return_complex=True,
            )
            real, imaginary = torch.view_as_real(spectrum.transpose(1, 2).contiguous()).unbind(-1)  # (B, T, bins)
            # Products, not powers: a strided `pow` took as long as the transform itself (measured).
            return ((real * real + imaginary * imaginary) @ self.bank).clamp_min(LOG_FLOOR).log()

    def _precise(self, audio: Tensor) -> Tensor:
        return audio.double() if self.bank.dtype == torch.float64 else audio.float()

    def center(self, features: Tensor, lengths: Tensor | None) -> Tensor:
        """Fill the floor and remove the channel as ``normalize`` says, bring the scale near one, zero the padding.

        ``features`` as `power` gives them; ``lengths`` (B,) frames, None without padding.
        """
        time = torch.arange(features.shape[1], device=features.device)
        valid = 1.0 if lengths is None else (time < lengths[:, None]).unsqueeze(-1)
        if self.normalize != "none":
            power = features.exp()
            if self.normalize == "running":
                level = power.mean(2, keepdim=True).cumsum(1) / (time + 1.0)[None, :, None]
            elif lengths is None:
                level = power.mean((1, 2), keepdim=True)
            else:
                level = (power * valid).mean(2, keepdim=True).sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
            features = (power + ROOM_FLOOR * level).log()
        if self.normalize == "clip" and lengths is None:
            features = features - features.mean(1, keepdim=True)
        elif self.normalize == "clip" and lengths is not None:
            total = (features * valid).sum(1, keepdim=True)
            features = features - total / lengths.clamp(min=1)[:, None, None]
        elif self.normalize == "running":
            seen = (time + 1.0)[None, :, None] + self.PRIOR_FRAMES
            features = features - (features.cumsum(1) + self.PRIOR_FRAMES * self.prior) / seen
        else:
            features = features + 6.0
        return features * 0.33 * valid  # 0.33: log power has a standard deviation of about 3 (measured)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, S) in [-1, 1] with ``lengths`` (B,) samples to features (B, T, mel) and their frames (B,)."""
        frames = self.frames(lengths)
        return self.center(self.power(audio), frames), frames
