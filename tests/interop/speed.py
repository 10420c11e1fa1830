#!/usr/bin/env python3
"""Times a training step of LoRA at q and v on vision transformers with random weights, here and with PyTorch and PEFT, on every device of both.

    speed.py [PETL]

ViT-S/16 and ViT-B/16 at 224 pixels, 32 pictures a step, AdamW, 32-bit floats. Prints medians in milliseconds and their ratios; compares no results.
Ends with 3 when a package is missing. A GPU's first steps, in which kernels are compiled, are not timed.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
NETS = {"ViT-S/16": dict(hidden_size=384, num_attention_heads=6, intermediate_size=1536), "ViT-B/16": {}}
BATCH = 32


def ours(petl, folder, device, steps):
    line = [petl, "bench", "digits-lora", "--json", "--steps", steps, "--warm-up", steps // 3 + 1]
    for pair in ["backbone.name=vit", f"backbone.settings.folder={folder}", "data.settings.train=320", "data.settings.test=32",
                 f"recipe.batch_size={BATCH}", "recipe.report_every=4", f"device={device}"]:
        line += ["--set", pair]
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)["step_ms"]


def theirs(folder, device, steps):
    import peft
    import torch
    import transformers

    model = transformers.ViTForImageClassification.from_pretrained(folder, num_labels=10)
    config = peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj", "query", "value"], modules_to_save=["classifier"])
    model = peft.get_peft_model(model, config).to(device)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    x, y = torch.randn(BATCH, 3, 224, 224, device=device), torch.randint(0, 10, (BATCH,), device=device)
    times = []
    for _ in range(steps + 3):
        start = time.perf_counter()
        torch.nn.functional.cross_entropy(model(x).logits, y).backward()
        optimiser.step()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times[3:])[steps // 2]


def main():
    try:
        import peft
        import torch
        import transformers
    except ImportError as missing:
        print(f"NOT TIMED: {missing}. Install torch, transformers and peft")
        return 3
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    listed = subprocess.run([str(petl), "list", "devices", "--json"], capture_output=True, text=True, check=True).stdout
    known = {device["id"]: device for device in json.loads(listed)}
    with tempfile.TemporaryDirectory() as scratch:
        for name, sizes in NETS.items():
            folder = pathlib.Path(scratch) / name.replace("/", "-")
            transformers.ViTModel(transformers.ViTConfig(**sizes), add_pooling_layer=False).save_pretrained(folder)
            found = {}
            for device, torch_device, steps in [("gpu 0", "cuda", 24), ("cpu", "cpu", 4)]:
                if device in known and not known[device].get("software") and (torch_device == "cpu" or torch.cuda.is_available()):
                    found[device] = (ours(petl, folder, device, steps), theirs(folder, torch_device, steps))
                    a, b = found[device]
                    print(f"{name} on {known[device]['title']}: {a:.1f} ms here, {b:.1f} ms in PyTorch, {a / b:.2f} times as long", flush=True)
            if len(found) == 2:
                print(f"{name}: the GPU is {found['cpu'][0] / found['gpu 0'][0]:.1f} times as fast as the CPU here", flush=True)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
