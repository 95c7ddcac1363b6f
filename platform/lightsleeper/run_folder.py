"""What lies in a run folder, `runs/<recipe>/<run id>/`, by name."""

RECORD = "record.json"
RECIPE = "recipe.yaml"  # resolved
METRICS = "metrics.csv"  # of the fit, step by step
CHECKPOINTS = "checkpoints"
EXPORT = "export"  # the finalized model and its files
ARCHITECTURE, WEIGHTS = "model.json", "model.safetensors"  # in it
DETAILS = "test.json"  # outcomes of the test item by item
LOG = "log.txt"
WANDB = "wandb"
