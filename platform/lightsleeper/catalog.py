"""Sections of a recipe, and short class names -> dotted paths. Strings only: looking a name up imports nothing."""

SECTIONS = ("seed_everything", "requires", "model", "data", "callbacks", "trainer", "run", "tracking")

MODELS: dict[str, str] = {
    "PhonemeCTC": "lightsleeper.models.kws_encoder.PhonemeCTC",
    "KeywordDSP": "lightsleeper.models.kws_dsp.KeywordDSP",
    "KeywordCMCD": "lightsleeper.models.kws_cmcd.KeywordCMCD",
    "SpokenWordCNN": "lightsleeper.models.small_cnn.SpokenWordCNN",
    "SpokenWordBCResNet": "lightsleeper.models.bc_resnet.SpokenWordBCResNet",
    "WakeWordCNN": "lightsleeper.models.wakeword_cnn.WakeWordCNN",
    "BCResNet": "lightsleeper.models.bc_resnet.BCResNet",
    "HEiMDaL": "lightsleeper.models.heimdal.HEiMDaL",
    "DNNHMM": "lightsleeper.models.dnn_hmm.DNNHMM",
    "DSTCN": "lightsleeper.models.ds_tcn.DSTCN",
    "CausalLM": "lightsleeper.models.causal_lm.CausalLM",
    "Classifier": "lightsleeper.models.classifier.Classifier",
}
DATA: dict[str, str] = {
    "SpokenPhrases": "lightsleeper.data.spoken_phrases.SpokenPhrases",
    "SpokenWords": "lightsleeper.data.spoken_words.SpokenWords",
    "WakeWords": "lightsleeper.data.wake_words.WakeWords",
    "SpeechCommands": "lightsleeper.data.speech_commands.SpeechCommands",
    "LibriPhrase": "lightsleeper.data.libriphrase.LibriPhrase",
    "AudioFolder": "lightsleeper.data.audio_folder.AudioFolder",
    "LocalText": "lightsleeper.data.local_text.LocalText",
    "LabelledText": "lightsleeper.data.classification.LabelledText",
    "LabelledImages": "lightsleeper.data.classification.LabelledImages",
}
COMPRESSIONS: dict[str, str] = {
    "SubcloneInitialization": "lightsleeper_callbacks.subclone.SubcloneInitialization",
    "FoldOnExport": "lightsleeper_callbacks.fold.FoldOnExport",
    "PDPMasking": "lightsleeper_callbacks.pdp.PDPMasking",
    "MagnitudePruning": "lightsleeper_callbacks.magnitude.MagnitudePruning",
    "EDKMClustering": "lightsleeper_callbacks.edkm.EDKMClustering",
}
CALLBACKS: dict[str, str] = COMPRESSIONS | {
    name: f"lightning.pytorch.callbacks.{name}"
    for name in (
        "BackboneFinetuning",
        "EarlyStopping",
        "GradientAccumulationScheduler",
        "LearningRateMonitor",
        "ModelSummary",
        "Timer",
        "WeightAveraging",
        "EMAWeightAveraging",
    )
}
SHORT_NAMES: dict[str, str] = {**MODELS, **DATA, **CALLBACKS}
_BY_PATH = {path: name for name, path in SHORT_NAMES.items()}


def dotted_path(name: str) -> str:
    """The dotted path of a short name; any other name comes back as it is."""
    return SHORT_NAMES.get(name, name)


def short_name(path: str) -> str:
    """The short name of a shipped class given as dotted path; any other path comes back as it is."""
    return _BY_PATH.get(path, path)


def is_shipped(name: str) -> bool:
    """Whether ``name`` is a short name or the dotted path of one."""
    return name in SHORT_NAMES or name in _BY_PATH
