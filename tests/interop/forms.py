#!/usr/bin/env python3
"""Loads adapters in particular forms that `petl export` wrote with the real PEFT and transformers, and compares their logits with `petl predict`.

    forms.py [PETL]

First every adapter of tests/fixtures/peft-forms (LoRA with biases, on convolutions, on GPT-2, RoBERTa, DistilBERT and T5), imported and exported again; then runs trained on its
GPT-2, whose q, k and v are one layer there, and on T5, RoBERTa and DistilBERT, whose classifiers have two layers, as PEFT folders and whole. Prints one line a check; ends with 0 when all agreed within 1e-4 of the largest logit, 1 when
something did not, 3 when a package is missing, and says which.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FORMS = HERE.parent / "fixtures/peft-forms"
PEFT, BACKBONES = FORMS.parent / "peft", FORMS.parent / "backbones"
IMPORTED = {
    **{name: PEFT / "base_vit" for name in ("lora_only", "all", "all_base_head", "lora_bias", "lora_bias_only", "dora_only", "conv", "conv_dora")},
    "all_bert": PEFT / "base_bert",
    "conv_ast": BACKBONES / "ast-classifier",
    "roberta_lora": BACKBONES / "roberta",
    "roberta_mlp": BACKBONES / "roberta",
    "distilbert_mlp": BACKBONES / "distilbert",
    "t5_mlp": FORMS / "t5",
    **{name: FORMS / "gpt2" for name in ("gpt2_lora", "gpt2_bias", "gpt2_dora", "gpt2_ia3", "gpt2_vera", "gpt2_adalora")},
    **{f"t5_{kind}": FORMS / "t5" for kind in ("lora", "rslora", "head", "dora", "ia3", "norms", "vera", "loha", "lokr", "oft", "boft", "adalora")},
}
QKV = 'methods.0.place.roles=["q", "k", "v", "down"]'
TRAINED = {"gpt2": {
    "lora on q, v": ["digits-lora"],
    "lora on q alone": ["digits-lora", 'methods.0.place.roles=["q"]', "methods.0.settings.rank=3"],
    "lora everywhere": ["digits-lora-all"],
    "rslora": ["digits-lora", 'methods.0.settings.scaling="alpha / sqrt r"'],
    "pissa": ["pissa", "methods.0.settings.rank=2"],
    "dora": ["dora", QKV],
    "ia3": ["ia3"],
    "layernorm": ["layernorm"],
    "vera": ["vera", 'methods.0.place.roles=["o", "up", "down"]'],
    "adalora": ["adalora", "methods.0.settings.rank=2"],
    "full": ["digits-full"],
    "bitfit": ["bitfit"],
}, "t5": {
    "lora on q, v": ["digits-lora"],
    "lora but for one cross q": ["digits-lora", 'methods.0.place.except=["blocks.2.cross.q"]'],
    "lora everywhere": ["digits-lora-all"],
    "rslora": ["digits-lora", 'methods.0.settings.scaling="alpha / sqrt r"'],
    "pissa": ["pissa", "methods.0.settings.rank=2"],
    "dora": ["dora"],
    "ia3": ["ia3"],
    "layernorm": ["layernorm"],
    "vera": ["vera"],
    "loha": ["loha"],
    "lokr": ["lokr"],
    "oft": ["oft", "methods.0.settings.block_size=2"],
    "boft": ["boft", "methods.0.settings.block_size=2", "methods.0.settings.factors=1"],
    "adalora": ["adalora", "methods.0.settings.rank=2"],
    "full": ["digits-full"],
    "lora, head of two layers": ["digits-lora", "task.settings.head=mlp"],
}, "roberta": {
    "lora on q, v": ["digits-lora", "backbone.settings.pool=first token"],
    "lora, head of two layers": ["digits-lora", "backbone.settings.pool=first token", "task.settings.head=mlp"],
}, "distilbert": {
    "lora on q, v": ["digits-lora"],
    "lora, head of two layers": ["digits-lora", "task.settings.head=mlp", "task.settings.activation=relu"],
    "full": ["digits-full", "task.settings.head=mlp", "task.settings.activation=relu"],
}}
FAMILY = {"roberta": "bert", "distilbert": "bert"}
WHOLE_ONLY = ("full", "bitfit")
wrong = 0


def say(name, check, theirs, ours):
    global wrong
    apart = (theirs - ours).abs().max().item() / max(1.0, ours.abs().max().item())
    wrong += not apart < 1e-4
    print(f"{name:28} {check:24} {apart:.1e} {'agrees' if apart < 1e-4 else 'DOES NOT AGREE'}", flush=True)


def do(*line):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def opened(folder, **more):
    kind = transformers.AutoConfig.from_pretrained(folder).model_type
    cls = {"vit": "ViTForImageClassification", "bert": "BertForSequenceClassification", "gpt2": "GPT2ForSequenceClassification",
           "t5": "T5ForSequenceClassification", "roberta": "RobertaForSequenceClassification",
           "distilbert": "DistilBertForSequenceClassification",
           "audio-spectrogram-transformer": "ASTForAudioClassification"}[kind]
    return getattr(transformers, cls).from_pretrained(folder, ignore_mismatched_sizes=True, **more).eval()


def predicted(petl, run, given, scratch):
    save_file(given, scratch / "in.safetensors")
    do(petl, "predict", run, "--inputs", scratch / "in.safetensors", "--out", scratch / "out.safetensors")
    return load_file(scratch / "out.safetensors")["logits"]


def with_peft(folder, base, given, ours):
    with torch.no_grad():
        named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
        assert pathlib.Path(named).resolve() == base.resolve(), f"{named} is named as base"
        return peft.PeftModel.from_pretrained(opened(base, num_labels=ours.shape[1]), folder).eval()(**given).logits


def readable(folder):
    """A network of the fixtures with a tokenizer of its few words; a text for T5 ends in its token for that."""
    shutil.copytree((FORMS if (FORMS / folder.name).exists() else BACKBONES) / folder.name, folder)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(40)}, unk_token="w2"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if folder.name == "t5":
        words.post_processor = tokenizers.processors.TemplateProcessing(single="$A w1", special_tokens=[("w1", 1)])
    words.save(str(folder / "tokenizer.json"))
    return folder


def main():
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    images, cases = load_file(PEFT / "inputs.safetensors"), load_file(FORMS / "expected.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for name, base in IMPORTED.items():
            own = {key.split(".")[1]: value for key, value in cases.items() if key.startswith(f"{name}.input") or key == f"{name}.attention_mask"}
            given = own or {key: images[key] for key in (["input_ids"] if "bert" in base.name else ["pixel_values"])}
            run, out = scratch / name, scratch / f"{name}-out"
            do(petl, "import", FORMS / name, "--backbone", base, run)
            do(petl, "export", run, "--as", "peft", out)
            ours = predicted(petl, run, given, scratch)
            say(name, "petl, what PEFT gave", ours, cases[f"{name}.logits"])
            say(name, "PEFT on our folder", with_peft(out, base, given, ours), ours)
        table = scratch / "table.csv"
        table.write_text("text,label\n" + "".join(f"w{3 + n % 30} w{5 + n % 7} w{n % 11 + 9},{'even' if n % 2 == 0 else 'odd'}\n" for n in range(40)))
        for kind, runs in TRAINED.items():
            base = readable(scratch / kind)
            ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(5))
            mask = torch.ones_like(ids)
            padding = json.loads((base / "config.json").read_text())["pad_token_id"]
            mask[1, 6:], ids[1, 6:] = 0, padding  # by which transformers finds where a text ends
            if kind == "t5":
                ids[:, 8] = ids[1, 5] = 1
                ids[1, 8] = 0
            given = {"input_ids": ids, "attention_mask": mask}
            for name, (preset, *changes) in runs.items():
                settings = ["device=cpu", "recipe.epochs=2", "recipe.batch_size=8", "recipe.learning_rate=0.01", f"backbone.name={FAMILY.get(kind, kind)}",
                            f"backbone.settings.folder={base}", "data.name=text-table", f"data.settings.file={table}", *changes]
                run, out, whole = (scratch / f"{kind}-{name}{end}".replace(" ", "-") for end in ("", "-peft", "-whole"))
                do(petl, "train", preset, "--out", run, *[part for value in settings for part in ("--set", value)])
                ours = predicted(petl, run, given, scratch)
                if name not in WHOLE_ONLY:
                    do(petl, "export", run, "--as", "peft", out)
                    say(f"{kind}, {name}", "PEFT on our folder", with_peft(out, base, given, ours), ours)
                do(petl, "export", run, "--as", "transformers", whole)
                with torch.no_grad():
                    say(f"{kind}, {name}", "transformers, whole", opened(whole)(**given).logits, ours)
    print(f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__}: {wrong} do not agree")
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        import peft
        import tokenizers
        import torch
        import transformers
        from safetensors.torch import load_file, save_file
    except ImportError as missing:
        print(f"NOT CHECKED: {missing}. Install torch, transformers, peft and safetensors")
        sys.exit(3)
    transformers.utils.logging.disable_progress_bar()
    sys.exit(main())
