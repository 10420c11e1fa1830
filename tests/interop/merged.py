#!/usr/bin/env python3
"""Trains LoRA on tiny backbones from folders, exports merged weights, loads them with the real timm and transformers, and compares logits with `petl predict`.

    merged.py [PETL]

The backbones are those of tests/fixtures/backbones; the head beside the weights is ours and is put on by hand. Ends with 0 when all agreed within 1e-4,
1 when something did not, 3 when a package is missing, and says what.
"""
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BACKBONES = HERE.parent / "fixtures/backbones"
CASES = {"timm-vit": "vit", "dinov2": "vit", "swin": "swin"}


def do(*line):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def features(name, folder, pixels):
    """What the head reads, by the program that the folder is for."""
    import timm
    import transformers
    from safetensors.torch import load_file

    if name == "timm-vit":
        model = timm.models.vision_transformer.VisionTransformer(
            img_size=24, patch_size=8, embed_dim=64, depth=2, num_heads=1, mlp_ratio=2, num_classes=3).eval()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model.forward_features(pixels)[:, 0]
    if name == "dinov2":
        return transformers.Dinov2Model.from_pretrained(folder).eval()(pixels).last_hidden_state[:, 0]
    return transformers.SwinModel.from_pretrained(folder).eval()(pixels).pooler_output


def main():
    try:
        import timm
        import torch
        import transformers
        from safetensors.torch import load_file, save_file
    except ImportError as missing:
        print(f"NOT CHECKED: {missing}. Install torch, transformers, timm and safetensors")
        return 3
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    pixels, worst = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(5)), 0.0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        save_file({"pixel_values": pixels}, scratch / "inputs.safetensors")
        for name, backbone in CASES.items():
            run, folder = scratch / f"run-{name}", scratch / f"merged-{name}"
            settings = ["device=cpu", "recipe.epochs=2", "recipe.learning_rate=0.02", "data.settings.train=64", "data.settings.test=64",
                        f"backbone.name={backbone}", f"backbone.settings.folder={BACKBONES / name}"]
            do(petl, "train", "digits-lora", *[part for setting in settings for part in ("--set", setting)], "--out", run)
            do(petl, "predict", run, "--inputs", scratch / "inputs.safetensors", "--out", scratch / "ours.safetensors")
            do(petl, "export", run, "--as", "merged", folder)
            ours, head = load_file(scratch / "ours.safetensors")["logits"], load_file(folder / "head.safetensors")
            with torch.no_grad():
                theirs, plain = (features(name, where, pixels) @ head["weight"] + head["bias"] for where in (folder, BACKBONES / name))
            apart, moved = ((ours - other).abs().max().item() / ours.abs().max().item() for other in (theirs, plain))
            assert moved > 1e-3, f"{name}: nothing was trained"
            worst = max(worst, apart)
            print(f"{name}: {apart:.1e} apart, {moved:.2f} from the base model")
    print(f"transformers {transformers.__version__}, timm {timm.__version__}: largest difference {worst:.1e}")
    return int(worst > 1e-4)


if __name__ == "__main__":
    sys.exit(main())
