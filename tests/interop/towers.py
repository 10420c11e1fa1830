#!/usr/bin/env python3
"""Trains what stands in both towers of a tiny CLIP, exports it, loads it with the real PEFT and transformers, and compares likenesses with `petl predict`.

    towers.py [PETL]

The base is tests/fixtures/backbones/clip. Ends with 0 when all agreed within 1e-4, 1 when something did not, 3 when a package is missing, and says what.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BASE = HERE.parent / "fixtures/backbones/clip"
BOTH = '{ roles = ["q", "v"] }'
# Name, method, place and settings, and the folders it leaves as.
CASES = [
    ("LoRA in both towers", "lora", BOTH, {}, ["peft", "transformers"]),
    ("LoRA in the text tower", "lora", '{ roles = ["q", "v"], blocks = "3-4" }', {}, ["peft", "transformers"]),
    ("DoRA in the image tower", "dora", '{ roles = ["q", "up"], blocks = "1-2" }', {}, ["peft", "transformers"]),
    ("IA3", "ia3", '{ roles = ["k", "v", "down"] }', {}, ["peft", "transformers"]),
    ("LoHa", "loha", BOTH, {}, ["peft", "transformers"]),
    ("norms", "layernorm", '{ roles = ["norm"] }', {}, ["peft", "transformers"]),
    ("all of it", "full", '{ roles = ["q", "pool", "temperature", "norm"] }', {}, ["transformers"]),
]


def do(*line, **more):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True, **more)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def session(method, place, settings, data):
    text = [
        'petl = 1', 'title = "towers"', 'device = "cpu"',
        f'[backbone]\nname = "clip"\n[backbone.settings]\nfolder = {json.dumps(str(BASE))}',
        f'[data]\nname = "image-captions"\n[data.settings]\nfile = {json.dumps(str(data))}',
        '[task]\nname = "contrast"', '[recipe]\nepochs = 3\nbatch_size = 8\nlearning_rate = 0.01',
        f'[[methods]]\nname = "{method}"\nplace = {place}',
    ]
    if settings:
        text.append("[methods.settings]\n" + "\n".join(f"{k} = {json.dumps(v)}" for k, v in settings.items()))
    return "\n".join(text) + "\n"


def main():
    try:
        import numpy
        import peft
        import torch
        import transformers
        from PIL import Image
        from safetensors.torch import load_file, save_file
    except ImportError as missing:
        print(f"NOT CHECKED: {missing}. Install torch, transformers, peft, safetensors and pillow")
        return 3
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 29, (4, 9), generator=generator)
    ids[:, 0], ids[:, -1] = 2, 3
    mask = torch.ones_like(ids)
    ids[1, 6:], mask[1, 7:] = torch.tensor([3, 1, 1]), 0
    inputs = {"pixel_values": torch.randn(3, 3, 24, 24, generator=generator), "input_ids": ids, "attention_mask": mask}
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        rows = ["file_name,text"]
        for n in range(32):
            pixels = numpy.zeros((24, 24, 3), dtype=numpy.uint8)
            pixels[2:10 + n % 8, 3:12, n % 3] = 250
            Image.fromarray(pixels).save(scratch / f"{n}.png")
            rows.append(f"{n}.png,a {['red', 'green', 'blue'][n % 3]} square {n // 10} {n % 10}")
        (scratch / "metadata.csv").write_text("\n".join(rows) + "\n")
        save_file(inputs, scratch / "inputs.safetensors")
        base = transformers.CLIPModel.from_pretrained(BASE).eval()
        with torch.no_grad():
            plain = base(**inputs).logits_per_image
        for n, (name, method, place, settings, forms) in enumerate(CASES):
            file, run = scratch / f"{n}.petl.toml", scratch / f"run-{n}"
            file.write_text(session(method, place, settings, scratch / "metadata.csv"))
            do(petl, "train", file, "--out", run)
            do(petl, "predict", run, "--inputs", scratch / "inputs.safetensors", "--out", scratch / "ours.safetensors")
            ours = load_file(scratch / "ours.safetensors")["logits"]
            for form in forms:
                folder = scratch / f"{form}-{n}"
                do(petl, "export", run, "--as", form, folder)
                if form == "peft":
                    model = peft.PeftModel.from_pretrained(transformers.CLIPModel.from_pretrained(BASE), folder).eval()
                    back = scratch / f"back-{n}"
                    do(petl, "import", folder, "--backbone", BASE, back)
                    do(petl, "predict", back, "--inputs", scratch / "inputs.safetensors", "--out", scratch / "back.safetensors")
                    again = (load_file(scratch / "back.safetensors")["logits"] - ours).abs().max().item()
                    assert again < 1e-5, f"{name}: the import gives other likenesses, {again}"
                else:
                    model = transformers.CLIPModel.from_pretrained(folder).eval()
                with torch.no_grad():
                    theirs = model(**inputs).logits_per_image
                apart = ((theirs - ours).abs().max() / theirs.abs().max()).item()
                moved = (theirs - plain).abs().max().item()
                assert moved > 1e-3, f"{name}: nothing was trained"
                worst = max(worst, apart)
                print(f"{name}, {form}: {apart:.1e} apart, {moved:.2f} from the base model")
    print(f"transformers {transformers.__version__}, peft {peft.__version__}: largest difference {worst:.1e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())
