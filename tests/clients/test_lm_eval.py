"""lm-evaluation-harness' `local-completions`, on a small task of multiple choice: loglikelihoods of echoed prompts."""

import json
import shutil

import pytest

TASK = """
task: letters
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
target_delimiter: ""
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
ITEMS = [
    {"question": "ab", "choices": ["cd", "xy", "c!"], "answer": 0},
    {"question": "xy", "choices": ["ab", "z{"], "answer": 1},
    {"question": "mn", "choices": ["op", "po"], "answer": 0},
    {"question": "the one is m", "choices": ["m", "nop", "o"], "answer": 2},  # which no counting model says
]


@pytest.fixture
def tasks(tmp_path):
    """The task, and the tokenizer in a form that transformers reads."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "letters.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (folder / "letters.yaml").write_text(TASK.format(data=folder / "letters.jsonl"))
    return folder


@pytest.mark.parametrize("batch", ["1", "3"])
def test_a_task_of_multiple_choice(program, server, weights, tasks, tmp_path, batch):
    tokenizer, out = tmp_path / "tokenizer", tmp_path / "out"
    tokenizer.mkdir()
    shutil.copy(weights / "counting" / "tokenizer.json", tokenizer)
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(fields))
    arguments = {
        "model": "counting",
        "base_url": f"{server.url}/v1/completions",
        "tokenizer": tokenizer,
        "num_concurrent": 2,
        "max_retries": 1,
    }
    program(
        *("lm_eval", "--model", "local-completions", "--tasks", "letters", "--include_path", str(tasks)),
        *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        *("--batch_size", batch, "--output_path", str(out), "--log_samples"),
    )
    (path,) = out.rglob("results_*.json")
    assert json.loads(path.read_text())["results"]["letters"]["acc,none"] == 0.75
    (path,) = out.rglob("samples_*.jsonl")
    samples = {sample["doc_id"]: sample for sample in map(json.loads, path.read_text().splitlines())}
    (likely, greedy), (unlikely, _), (half, _) = samples[0]["filtered_resps"]
    likely, unlikely, half = map(float, (likely, unlikely, half))
    assert likely == pytest.approx(0, abs=1e-3), "cd follows ab"
    assert greedy in (True, "True")
    assert unlikely == pytest.approx(-50, abs=1e-3), "x does not follow b, but y does follow x"
    assert half == pytest.approx(-50, abs=1e-3), "c follows b, but ! does not follow c"
