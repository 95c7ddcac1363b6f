"""Image and text classifiers of transformers as a family: build, train, measure, save, export, refuse."""

import json
import math
import shlex
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import yaml
from lightsleeper.cli import main
from lightsleeper.deploy.export import export
from lightsleeper.deploy.finalize import load_model, save_model
from lightsleeper.errors import UserError
from lightsleeper.models.classifier import Classifier
from lightsleeper.tracking.record import read
from mistakes import no_hub
from tiny_hosts import BERT, LLAMA, VIT, classifier_recipe, recipe, write_images, write_table
from tiny_runs import assert_equal_runs, last, prepare, start, stopped

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
CONFIGS = pytest.mark.parametrize("config", [BERT, LLAMA, VIT, RESNET], ids=lambda config: config["model_type"])


def classifier(config: dict[str, Any], **arguments: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(**{"config": config, "classes": 3, "sample_size": 16, **arguments})


def inputs(model: Classifier, seed: int = 0) -> dict[str, torch.Tensor]:
    return {
        ("pixel_values" if model.reads_images else "input_ids"): value
        for value in model.export_spec()[0].sample(seed).values()
    }


@CONFIGS
def test_the_architecture_is_json_and_rebuilds_the_network(config: dict[str, Any], tmp_path: Path) -> None:
    model = classifier(config).eval()
    save_model(model, tmp_path, {})
    twin = load_model(tmp_path)
    assert isinstance(twin, Classifier)
    assert torch.equal(model(**inputs(model)), twin(**inputs(model)))
    assert twin.architecture() == model.architecture() == json.loads(json.dumps(model.architecture()))


@pytest.mark.parametrize("config", [BERT, RESNET], ids=lambda config: config["model_type"])
def test_the_exported_graph_equals_the_model(config: dict[str, Any], tmp_path: Path) -> None:
    model = classifier(config).eval()
    (artifact,) = export(model, tmp_path, ["onnx"], parity_inputs=6)
    assert artifact["parity"]["max_abs_diff"] < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["classes"].count("\n") == 2


def test_the_kind_of_network_says_what_it_reads() -> None:
    assert [classifier(config).reads_images for config in (BERT, LLAMA, VIT, RESNET)] == [False, False, True, True]


@CONFIGS
def test_an_example_goes_through_the_network(config: dict[str, Any]) -> None:
    model = classifier(config).eval()
    assert model(**model.example_input_array).shape == (1, 3)


def quiet(model: Classifier) -> Classifier:
    model.log = model.log_dict = lambda *args, **kwargs: None  # type: ignore[method-assign]
    return model


@CONFIGS
def test_steps_on_one_batch_learn_it_and_reach_every_parameter(config: dict[str, Any]) -> None:
    model = quiet(classifier(config))
    model.net.config.pad_token_id = 0
    name = "pixel_values" if model.reads_images else "input_ids"
    values = torch.randn(8, 3, 16, 16) if model.reads_images else torch.randint(1, 257, (8, 12))
    batch = {name: values, "labels": torch.arange(8) % 3}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = model.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_text_classifies_the_same_alone_and_in_a_padded_batch() -> None:
    for config in (BERT, LLAMA):
        model = classifier(config).eval()
        model.net.config.pad_token_id = 0
        ids = torch.randint(1, 257, (2, 12))
        ids[1, 7:] = 0
        together = model(input_ids=ids, attention_mask=(ids > 0).long())
        torch.testing.assert_close(model(input_ids=ids[1:, :7]), together[1:], atol=1e-5, rtol=1e-5)


def test_accuracies_are_those_of_the_rows() -> None:
    model = quiet(classifier(BERT)).eval()
    batch = {
        "input_ids": torch.randint(1, 257, (30, 12)),
        "labels": torch.randint(3, (30,)),
        "groups": torch.arange(30) // 3,
    }
    with torch.inference_mode():
        model.observe(batch)
        predicted = model(input_ids=batch["input_ids"]).argmax(-1)
    measured = model.results("test/", intervals=True)
    hit = predicted == batch["labels"]
    recalls = [float(hit[batch["labels"] == label].float().mean()) for label in range(3)]
    assert measured["test/accuracy"].value == pytest.approx(float(hit.float().mean()))
    assert measured["test/macro_accuracy"].value == pytest.approx(sum(recalls) / 3)
    assert measured["test/accuracy"].n == 10


def test_a_pretrained_network_gets_the_head_it_needs(tmp_path: Path) -> None:
    trained = classifier(BERT, classes=5)
    trained.net.save_pretrained(tmp_path)
    model = Classifier(pretrained=str(tmp_path), classes=3)
    assert model(input_ids=torch.randint(1, 257, (1, 5))).shape == (1, 3)
    word = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.net.state_dict()[word], trained.net.state_dict()[word])
    assert all(module.training for module in model.modules())
    assert model.architecture()["classes"] == 3


def test_it_starts_from_a_finished_run(tmp_path: Path) -> None:
    model = classifier(VIT).eval()
    save_model(model, tmp_path / "export", {})
    started = Classifier(init_from=tmp_path).eval()
    assert torch.equal(started(**inputs(model)), model(**inputs(model)))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"config": None}, "give one of pretrained, config, init_from; got none"),
        ({"config": {"model_type": "brt"}}, "has no 'brt'"),
        ({"config": {**BERT, "hiden_size": 8}}, "Did you mean 'hidden_size'"),
        ({"config": {**BERT, "hidden_size": 15}}, "config: "),
        ({"config": BERT, "classes": 1}, "classes must be 2"),
        ({"config": BERT, "label_smoothing": 1.0}, "label_smoothing must be a share"),
        ({"config": None, "pretrained": "nobody/nothing"}, "cannot load 'nobody/nothing'"),
        ({"config": {"model_type": "clap"}}, "config: "),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(arguments: dict[str, Any], expected: str, monkeypatch) -> None:
    no_hub(monkeypatch)
    with pytest.raises((UserError, ValueError), match=expected) as caught:
        classifier(**arguments)
    assert "\n" not in str(caught.value)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prepare(monkeypatch, tmp_path)


@pytest.mark.usefixtures("world")
def test_a_run_goes_through_every_stage_and_knows_its_classes() -> None:
    from transformers import AutoModelForSequenceClassification

    folder = start(classifier_recipe(Path("tiny.yaml"), "Classifier", run={"formats": ["onnx", "transformers"]}))
    record = read(folder)
    assert record.status == "finished"
    assert record.headline == ["test/accuracy", "test/macro_accuracy"]
    assert 0 <= record.metrics["test/accuracy"]["value"] <= 1
    assert record.artifacts[0]["latency"][0]["per"] == "text"
    network = AutoModelForSequenceClassification.from_pretrained(folder / "export" / "transformers")
    assert network.config.id2label == {0: "for", 1: "if", 2: "try"}
    assert record.data["counts"]["train"]["rows"] == 72


@pytest.mark.usefixtures("world")
def test_images_are_trained_on_and_tested() -> None:
    write_images(Path("images"))
    model = {"class_path": "Classifier", "init_args": {"config": VIT, "classes": 2, "warmup_steps": 1, "lr": 0.01}}
    data = {"class_path": "LabelledImages", "init_args": {"dataset": "images", "image_size": 16, "batch_size": 8}}
    record = read(start(recipe(Path("tiny.yaml"), model, data, run={"stages": ["fit", "finalize", "test"]})))
    assert record.status == "finished"
    assert math.isfinite(record.metrics["test/accuracy"]["value"])


@pytest.mark.usefixtures("world")
def test_a_killed_and_resumed_run_equals_an_undisturbed_one() -> None:
    path = classifier_recipe(Path("tiny.yaml"), run={"stages": ["fit", "finalize", "test"]})
    whole = start(path, runs="whole")
    assert stopped("step:4:kill", path) == -9
    assert main(["run", "--resume", "last"]) == 0
    assert_equal_runs(whole, last())


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("--model.classes=2", ("3 classes", "2", "model.classes")),
        ("--model.config.vocab_size=100", ("257", "100")),
        ("--model.config.vocab_size=4096", ("257", "4096", "tokenizer")),
        ("--data.max_length=128", ("max_length", "128", "64")),
        ("--data.dataset=tabel.csv", ("data", "tabel.csv", "does not exist")),
        ("--data.label_column=lable", ("'lable'", "'label'")),
    ],
)
def test_a_mistake_in_a_recipe_is_one_line(override: str, names: tuple[str, ...], capsys) -> None:
    path = classifier_recipe(Path("tiny.yaml"), "Classifier", run={"stages": ["fit"]})
    code = main(["run", str(path), *shlex.split(f"'{override}'")])
    error = capsys.readouterr().err
    assert code == 2, error
    line = [text for text in error.splitlines() if text.startswith("error: ")]
    assert len(line) == 1, error
    assert "Traceback" not in error
    for name in names:
        assert name in line[0], error


@pytest.mark.usefixtures("world")
def test_texts_are_refused_by_a_network_for_images(capsys) -> None:
    path = classifier_recipe(Path("tiny.yaml"), "Classifier")
    config = yaml.safe_load(path.read_text())
    config["model"]["init_args"]["config"] = VIT
    path.write_text(yaml.safe_dump(config))
    assert main(["run", str(path)]) == 2
    assert "a vit classifies images, which LabelledText does not give" in capsys.readouterr().err


def test_the_table_of_the_tests_is_deterministic(tmp_path: Path) -> None:
    assert write_table(tmp_path / "a.csv").read_bytes() == write_table(tmp_path / "b.csv").read_bytes()
