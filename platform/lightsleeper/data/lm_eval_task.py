"""Multiple-choice items as a task of EleutherAI's `lm-eval` (0.4.13 was tried), which then needs no network."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lightsleeper.data.choices import Item
from lightsleeper.files import write_atomic

NAME = "lightsleeper_choices"
TASK = """\
# {count} multiple-choice items, scored by likelihood: acc is by the sum, acc_bytes per byte.
# Run: lm_eval --model hf --model_args pretrained=RUN/export/transformers,dtype=float32 --tasks {name} \\
#      --include_path FOLDER
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: "{items}"}}
output_type: multiple_choice
test_split: test
doc_to_text: context
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""        # a choice begins with its own blank
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_bytes, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1}}
"""


def write_task(items: Sequence[Item], folder: Path, name: str = NAME) -> Path:
    """Write the items and their task into ``folder``.

    They are ``<name>.jsonl`` and ``<name>.yaml``, which is returned and names the former by its absolute path: a
    folder that was moved is written again.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows, task = folder / f"{name}.jsonl", folder / f"{name}.yaml"
    write_atomic(rows, "".join(json.dumps(asdict(item)) + "\n" for item in items))
    write_atomic(task, TASK.format(count=len(items), name=name, items=rows.as_posix()))
    return task
