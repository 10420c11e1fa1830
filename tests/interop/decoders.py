#!/usr/bin/env python3
"""Loads adapters that `petl export` wrote for a decoder with the real PEFT and transformers, and compares their logits with `petl predict`.

    decoders.py [PETL]

The base is the packed Llama of tests/fixtures/gguf; its numbers leave unpacked, beside the adapter. Prints one line a check; ends with 0 when all
agreed within 1e-4, 1 when something did not, 3 when a package is missing, and says which.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
GGUF = HERE.parent / "fixtures/gguf/q4_1.gguf"
CASES = {
    "lora": ["digits-lora-all"],
    "dora": ["dora"],
    "ia3": ["ia3"],
    "vera": ["vera"],
    "loha": ["loha"],
    "lokr": ["lokr"],
    "prompts": ["vpt-shallow", "methods.0.settings.tokens=5"],
}


def main():
    try:
        import peft
        import torch
        import transformers
        from safetensors.torch import load_file, save_file
    except ImportError as missing:
        print(f"NOT CHECKED: {missing}. Install torch, transformers, peft and safetensors")
        return 3
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    worst = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        table = scratch / "table.csv"
        table.write_text("text,label\n" + "".join(f"the dog {n} is here,{'even' if n % 2 == 0 else 'odd'}\n" for n in range(40)))
        ids = torch.randint(2, 260, (4, 9), generator=torch.Generator().manual_seed(5))
        mask = torch.ones_like(ids)
        mask[1, 6:] = 0
        ids[1, 6:] = 0  # the padding token, by which transformers finds where a text ends
        for name, (preset, *changes) in CASES.items():
            whole = name == "prompts"  # transformers reads the last position there, padding or not
            seen = torch.ones_like(ids) if whole else mask
            save_file({"input_ids": ids, "attention_mask": seen}, scratch / "inputs.safetensors")
            settings = ["device=cpu", "recipe.epochs=1", "recipe.batch_size=8", "backbone.name=llama", f"backbone.settings.folder={GGUF}",
                        "backbone.settings.length=24", "data.name=text-table", f"data.settings.file={table}", *changes]
            run, folder = scratch / name, scratch / f"{name}-peft"
            do(petl, "train", preset, "--out", run, *[part for value in settings for part in ("--set", value)])
            do(petl, "export", run, "--as", "peft", folder)
            do(petl, "predict", run, "--inputs", scratch / "inputs.safetensors", "--out", scratch / "out.safetensors")
            ours = load_file(scratch / "out.safetensors")["logits"]
            os.chdir(folder)
            base = transformers.LlamaForSequenceClassification.from_pretrained("base", num_labels=ours.shape[1])
            theirs = peft.PeftModel.from_pretrained(base, ".").eval()
            with torch.no_grad():
                apart = (theirs(input_ids=ids, attention_mask=seen).logits - ours).abs().max().item()
            kind = json.loads(pathlib.Path("adapter_config.json").read_text())["peft_type"]
            print(f"{name} ({kind}): {apart:.1e} {'agrees' if apart < 1e-4 else 'DOES NOT AGREE'}")
            worst = max(worst, apart)
            os.chdir(HERE)
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}")
    return int(not worst < 1e-4)


def do(*line):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
