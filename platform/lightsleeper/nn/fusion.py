"""How much each of several scores counts in one: weights by logistic regression on validation pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_weights(features: Tensor, labels: Tensor, steps: int = 50) -> Tensor:
    """Weights (F,) of a logistic regression, classes balanced, none negative, scaled to sum to one."""
    features, labels = features.double(), labels.double()
    center, spread = features.mean(0), features.std(0).clamp_min(1e-6)
    x = (features - center) / spread
    weight = torch.where(labels == 1, 0.5 / labels.mean(), 0.5 / (1 - labels.mean()))
    raw = torch.zeros(x.shape[1] + 1, dtype=torch.double, requires_grad=True)
    optimizer = torch.optim.LBFGS([raw], max_iter=steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ F.softplus(raw[:-1]) + raw[-1]
        loss = F.binary_cross_entropy_with_logits(logits, labels, weight=weight)
        loss.backward()
        return loss

    with torch.enable_grad(), torch.inference_mode(False):
        optimizer.step(closure)
    slopes = F.softplus(raw[:-1]).detach() / spread
    return (slopes / slopes.sum()).float()
