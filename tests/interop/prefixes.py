#!/usr/bin/env python3
"""Imports the fixtures' prefixes and bottlenecks that go through BERT's norms twice, exports them, loads them with the real PEFT or AdapterHub's adapters, and compares their logits with `petl predict`.

    prefixes.py [PETL]

The bases are the tiny BERT, RoBERTa, Llama and GPT-2 of tests/fixtures. PEFT 0.21.2 opens a prefix on classifiers with transformers up to 5.23, adapters wants 4.57:
run it where both are. Ends with 0 when all agreed within 1e-4, 1 when something did not, 3 when something could not be checked, and says what.
"""
import os
import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FIXTURES = HERE.parent / "fixtures"
BASES = {"bert": FIXTURES / "peft/base_bert", "llama": FIXTURES / "peft-decoder/base", "gpt2": FIXTURES / "peft-forms/gpt2",
         "roberta": FIXTURES / "backbones/roberta"}
# Form, base, the fixture's adapter, and how many texts: AdapterHub's gate takes the mean over padding, too, so only the first, which has none.
CASES = [
    ("peft", "bert", "peft-prefix/bert", 4),
    ("peft", "llama", "peft-prefix/llama", 4),
    ("peft", "gpt2", "peft-prefix/gpt2", 4),
    ("peft", "roberta", "peft-prefix/roberta", 4),
    ("adapterhub", "bert", "adapterhub-prefix/bert", 4),
    ("adapterhub", "bert", "adapterhub-prefix/bert-flat", 1),
    ("adapterhub", "bert", "adapterhub-heads/bert-classifier", 4),
]


def do(*line):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, line))}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def opened(form, base, classes):
    """The model as its user opens it, from within the exported folder. None where the package is not there or does not run a prefix."""
    import torch
    import transformers

    cls = {"bert": transformers.BertForSequenceClassification, "llama": transformers.LlamaForSequenceClassification,
           "gpt2": transformers.GPT2ForSequenceClassification, "roberta": transformers.RobertaForSequenceClassification}[base]
    model = cls.from_pretrained(BASES[base], num_labels=classes)
    try:
        if form == "peft":
            import peft

            model = peft.PeftModel.from_pretrained(model, ".").eval()
            with torch.no_grad():
                model(input_ids=torch.ones(1, 2, dtype=torch.int64))
            return model
        import adapters

        adapters.init(model)
        model.load_adapter(".", use_safetensors=True, set_active=True)
        return model.eval()
    except ImportError as fault:
        print(f"NOT CHECKED, {form}: {fault}")
    except (ValueError, TypeError) as fault:  # the latter is what PEFT's way round that runs into on RoBERTa
        if base != "roberta" and "does not support past key values" not in str(fault):
            raise
        print(f"NOT CHECKED, {form} with transformers {transformers.__version__}: {fault}")
    return None


def main():
    try:
        import torch
        from safetensors.torch import load_file, save_file
    except ImportError as missing:
        print(f"NOT CHECKED: {missing}. Install torch, transformers, safetensors, and peft or adapters")
        return 3
    petl = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parents[1] / "target/release/petl").resolve()
    worst, skipped = 0, 0
    ids = torch.randint(3, 40, (4, 9), generator=torch.Generator().manual_seed(5))
    mask = torch.ones_like(ids)
    mask[1, 6:], ids[1, 6:] = 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for n, (form, base, source, texts) in enumerate(CASES):
            run, folder = scratch / f"run-{n}", scratch / f"out-{n}"
            do(petl, "import", FIXTURES / source, "--backbone", BASES[base], run)
            do(petl, "export", run, "--as", form, folder)
            given, seen = ids[:texts].clone(), mask[:texts].clone()
            save_file({"input_ids": given, "attention_mask": seen}, scratch / "inputs.safetensors")
            do(petl, "predict", run, "--inputs", scratch / "inputs.safetensors", "--out", scratch / "out.safetensors")
            ours = load_file(scratch / "out.safetensors")["logits"]
            os.chdir(folder)
            model = opened(form, base, ours.shape[1])
            if model is None:
                skipped += 1
                continue
            with torch.no_grad():
                apart = (model(input_ids=given, attention_mask=seen).logits - ours).abs().max().item()
            print(f"{form}, {source}: {apart:.1e} {'agrees' if apart < 1e-4 else 'DOES NOT AGREE'}")
            worst = max(worst, apart)
            os.chdir(HERE)
    return 1 if not worst < 1e-4 else 3 if skipped else 0


if __name__ == "__main__":
    sys.exit(main())
