import math

import pytest
import torch
from lightsleeper.nn.alignment import cosines, monotone_cuts, runs
from lightsleeper.nn.verifiers import (
    EVIDENCE,
    AgreementVerifier,
    AlignedVerifier,
    EditVerifier,
    agreement_matrix,
    evidence,
    spoken_cuts,
    verification_loss,
)

FRAMES, COUNTS = torch.tensor([14, 9, 11]), torch.tensor([5, 3, 1])


def _rows(dim: int = 8, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    phones = torch.randint(1, 40, (3, 5), generator=generator)
    return {
        "hidden": torch.randn(3, 14, dim, generator=generator),
        "log_probs": (3 * torch.randn(3, 14, 40, generator=generator)).log_softmax(-1),
        "tokens": torch.randn(3, 5, dim, generator=generator),
        "phones": torch.where(torch.arange(5) < COUNTS[:, None], phones, 0),
    }


def _alone(rows: dict[str, torch.Tensor], row: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    n, m = int(FRAMES[row]), int(COUNTS[row])
    cut = {name: value[row : row + 1, : n if name in ("hidden", "log_probs") else m] for name, value in rows.items()}
    return cut, FRAMES[row : row + 1], COUNTS[row : row + 1]


def test_the_agreement_matrix_sums_frames_by_their_cosine() -> None:
    rows = _rows()
    cosine = cosines(rows["tokens"], rows["hidden"])
    cuts = monotone_cuts(cosine, FRAMES, COUNTS)
    found = agreement_matrix(rows["hidden"], cosine, cuts)
    for b in range(3):
        for k in range(5):
            frames = range(int(cuts[b, k]), int(cuts[b, k + 1]))
            expected = sum((cosine[b, k, i] * rows["hidden"][b, i] for i in frames), torch.zeros(8))
            torch.testing.assert_close(found[b, k], expected)


def test_louder_frames_scale_the_agreement_and_leave_the_cosine() -> None:
    rows = _rows()
    cosine, louder = cosines(rows["tokens"], rows["hidden"]), cosines(rows["tokens"], 3 * rows["hidden"])
    torch.testing.assert_close(louder, cosine)
    cuts = monotone_cuts(cosine, FRAMES, COUNTS)
    torch.testing.assert_close(
        agreement_matrix(3 * rows["hidden"], louder, cuts), 3 * agreement_matrix(rows["hidden"], cosine, cuts)
    )


def test_reversed_phones_change_the_agreement() -> None:
    tokens = torch.eye(8)[None, :4]
    hidden = tokens.repeat_interleave(3, 1)
    found = []
    for text in (tokens, tokens.flip(1)):
        cosine = cosines(text, hidden)
        cuts = monotone_cuts(cosine, torch.tensor([12]), torch.tensor([4]))
        found.append((agreement_matrix(hidden, cosine, cuts), float((cosine * runs(cuts, 12)).sum())))
    assert not torch.allclose(found[0][0], found[1][0])
    assert found[0][1] > found[1][1]


@pytest.mark.parametrize("kind", ["gru", "edits", "product", "root", "mean", "worst"])
def test_a_padded_batch_scores_as_its_rows_do_alone(kind: str) -> None:
    torch.manual_seed(0)
    net: AgreementVerifier | EditVerifier | AlignedVerifier
    if kind == "gru":
        net = AgreementVerifier(8, 6)
    elif kind == "edits":
        net = EditVerifier(6, "worst")
    else:
        net = AlignedVerifier(6, kind)  # type: ignore[arg-type]  # kind is a Pooling here
    net.eval()

    def score(rows: dict[str, torch.Tensor], frames: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        if isinstance(net, AgreementVerifier):
            cosine = cosines(rows["tokens"], rows["hidden"])
            return net(rows["hidden"], cosine, monotone_cuts(cosine, frames, counts), counts)
        if isinstance(net, EditVerifier):
            return net(rows["log_probs"], frames, rows["phones"], counts)
        cuts = spoken_cuts(rows["log_probs"], frames, rows["phones"], counts)
        return net(rows["log_probs"], rows["phones"], cuts, counts)

    rows = _rows()
    together = score(rows, FRAMES, COUNTS)
    for row in range(3):
        torch.testing.assert_close(together[row : row + 1], score(*_alone(rows, row)))


def test_evidence_tells_the_phone_heard_from_its_rival() -> None:
    log_probs = torch.full((1, 6, 40), -9.0)
    for frame, phone in enumerate([0, 5, 5, 0, 9, 0]):
        log_probs[0, frame, phone] = 0.0
    log_probs = log_probs.log_softmax(-1)
    inside = runs(torch.tensor([[0, 3, 6]]), 6).float()
    said = evidence(log_probs, torch.tensor([[5, 9]]), inside)
    wrong = evidence(log_probs, torch.tensor([[5, 8]]), inside)
    assert said.shape == (1, 2, EVIDENCE)
    torch.testing.assert_close(said[0, 0], wrong[0, 0])
    assert said[0, 1, 0] > 5  # against its best rival
    assert wrong[0, 1, 0] < -5
    assert said[0, 1, 1] == pytest.approx(0, abs=0.1)  # it is the best path


def test_a_run_explains_a_phone_as_all_its_paths_do() -> None:
    """Each frame phone or blank, the phone at least once: the sum over all such paths, one by one."""
    generator = torch.Generator().manual_seed(3)
    probs = torch.randn(4, 40, generator=generator).softmax(-1)
    found = evidence(probs.log()[None], torch.tensor([[6]]), torch.ones(1, 1, 4))[0, 0]
    paths = [[6 if code >> i & 1 else 0 for i in range(4)] for code in range(1, 16)]
    total = sum(math.prod(float(probs[i, p]) for i, p in enumerate(path)) for path in paths)
    best = math.prod(probs.amax(1).tolist())
    assert float(found[1]) == pytest.approx(math.log(total) - math.log(best), abs=1e-3)


def test_the_loss_is_cross_entropy_of_either_kind_of_score() -> None:
    label, solvable = torch.tensor([1, 0]), torch.tensor([True, True])
    logits = torch.tensor([1.5, -0.5])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, label.float())
    torch.testing.assert_close(verification_loss(logits, label, solvable, True), expected)
    chance = torch.nn.functional.logsigmoid(logits)
    torch.testing.assert_close(verification_loss(chance, label, solvable, False), expected)


def test_a_row_without_an_alignment_teaches_nothing() -> None:
    scores = torch.tensor([0.3, 5.0], requires_grad=True)
    verification_loss(scores, torch.tensor([1, 0]), torch.tensor([True, False]), True).backward()
    assert scores.grad is not None
    assert scores.grad[1] == 0


def test_one_missing_phone_decides_the_product_and_the_worst_but_not_the_mean() -> None:
    said = torch.tensor([[-0.01] * 9 + [-8.0], [-0.7] * 10])
    real = torch.ones(2, 10, dtype=torch.bool)
    first = {pooling: AlignedVerifier(4, pooling).pool(said, real) for pooling in ("product", "root", "mean", "worst")}
    assert first["product"][0] < first["product"][1]
    assert first["worst"][0] < first["worst"][1]
    assert first["root"][0] == pytest.approx(float(first["product"][0]) / math.sqrt(10))
    assert first["mean"][0] < -0.7 < first["mean"][0] + 0.2


def test_it_judges_evidence_and_not_which_phones_a_text_has() -> None:
    """Renaming all phones, in the text and in what is heard, changes nothing: no text is likely in itself."""
    torch.manual_seed(0)
    net = AlignedVerifier(6, "root").eval()
    rows = _rows()
    names = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(39)])
    heard = torch.empty_like(rows["log_probs"])
    heard[..., names] = rows["log_probs"]
    scores = []
    for log_probs, phones in ((rows["log_probs"], rows["phones"]), (heard, names[rows["phones"]])):
        cuts = spoken_cuts(log_probs, FRAMES, phones, COUNTS)
        scores.append(net(log_probs, phones, cuts, COUNTS))
    torch.testing.assert_close(*scores)
