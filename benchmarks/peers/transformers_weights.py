"""Weights for `transformers serve`: a GGUF file's numbers as a Hugging Face folder in bf16.

    build/bench/venvs/transformers/bin/python -m benchmarks.peers.transformers_weights GGUF FOLDER

The ends of a text are left out of its generation settings: every completion then has as many tokens as were asked for,
as `ignore_eos` gives them elsewhere (this server takes no such field).
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path


def convert(source: Path, folder: Path) -> None:
    """Dequantise the file, round once to bf16, write config, weights and tokenizer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    read = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(**where), dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())  # the one that was read is taken for quantised, and can't be saved
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    convert(options.gguf, options.folder)


if __name__ == "__main__":
    main()
