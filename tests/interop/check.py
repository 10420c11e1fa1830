#!/usr/bin/env python3
"""Loads what `petl export` wrote with the real programs (PEFT, AdapterHub's adapters, transformers) and compares their logits with `petl predict`.

    check.py [--petl PROGRAM] [--keep FOLDER] [--only NAME]

Trains small runs, exports each as a PEFT folder and as a transformers folder, and reads them from inside the exported folder, as the
README says. Prints one line a check. Ends with 0 when everything was checked and agreed within 1e-4, 1 when something did not, 3 when a package is
missing, so that a part was not checked: what was skipped is said, never counted as done. PEFT and adapters want different versions of
transformers: run it in an environment of each.
"""
import argparse
import contextlib
import importlib.metadata
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings

HERE = pathlib.Path(__file__).resolve().parent
TOLERANCE = 1e-4
SMALL = ["recipe.epochs=1", "data.settings.train=64", "data.settings.test=32", "device=cpu"]
FIXTURES = HERE.parent / "fixtures" / "backbones"
SWIN = ["backbone.name=swin", f"backbone.settings.folder={FIXTURES / 'swin'}", "backbone.settings.side=32"]
RS = 'methods.0.settings.scaling="alpha / sqrt r"'
# Name, preset or session file, changes, and the forms that must leave: p(eft), a(dapterhub), t(ransformers). Any other answer is wrong.
CASES = [
    ("lora", "digits-lora", [], "pat"),
    ("lora everywhere", "digits-lora-all", [], "pt"),
    ("rslora", "digits-lora", [RS, "methods.0.settings.rank=16"], "pat"),
    ("ia3", "ia3", [], "pt"),
    ("mixed ranks", str(HERE / "mixed.petl.toml"), [], "pt"),
    ("pissa", "pissa", [], "pt"),
    ("lora-plus", "lora-plus", [], "pat"),
    *[(name, name, [], "pt") for name in ("dora", "vera", "loha", "lokr", "adalora", "oft", "layernorm")],
    ("boft", "boft", [], "t"),  # PEFT takes two factors only where its CUDA extension is built
    *[(name, name, [], "t") for name in ("fact-tk", "repadapter", "ssf", "shira")],
    ("dora rslora-like", "dora", ["methods.0.settings.rank=16", "methods.0.settings.alpha=3"], "pt"),
    ("oft five terms", "oft", ['methods.0.settings.inverse="five terms"'], "pt"),
    ("boft one factor", "boft", ["methods.0.settings.factors=1"], "pt"),
    ("lokr both", "lokr", ["methods.0.settings.decompose_both=true", "methods.0.settings.rank=1"], "pt"),
    ("pfeiffer", "pfeiffer", [], "a"),
    ("houlsby", "houlsby", [], "a"),
    ("pfeiffer as theirs", "pfeiffer", ['methods.0.place.roles=["mid", "block"]'], "a"),
    ("parallel as theirs", "parallel", ['methods.0.settings.form="parallel to the stream"', "methods.0.settings.scale=4"], "a"),
    ("bitfit", "bitfit", [], "t"),
    ("probe", "digits-probe", [], "t"),
    ("full", "digits-full", [], "t"),
    ("swin lora", "digits-lora-all", SWIN, "pt"),
    ("swin layernorm", "layernorm", SWIN, "pt"),
    ("swin repadapter", "repadapter", SWIN, "t"),
    ("swin full", "digits-full", SWIN, "t"),
]

results = []
skipped = []


def say(case, check, words, ok=None):
    results.append((case, check, ok))
    mark = {True: "ok     ", False: "WRONG  ", None: "       "}[ok]
    print(f"{mark} {case:16} {check:34} {words}", flush=True)


def petl(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr.strip()


def version(package):
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


@contextlib.contextmanager
def inside(folder):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def major():
    """Which of the two sets of names the library here uses."""
    return 5 if int(version("transformers").split(".")[0]) >= 5 else 4


def mine(name):
    """Not a name of the other version: what stands in no block is called the same in both."""
    old, new = ("vit.encoder.layer.", "attention.self.", ".dense"), ("vit.layers.", "_proj", "mlp.fc")
    return not any(word in name for word in (old if major() == 5 else new))


def logits_of(model, pixels):
    import torch

    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits


def compare(case, check, theirs, ours, more=""):
    apart = (theirs - ours).abs().max().item()
    say(case, check, f"largest difference {apart:.1e} (logits up to {ours.abs().max().item():.1f}){more}", apart < TOLERANCE)


def base_model(folder, ours):
    """With a classifier of our classes: a folder that the user has may hold one of its own, which the adapter's takes the place of."""
    import transformers

    return transformers.AutoModelForImageClassification.from_pretrained(folder, num_labels=ours.shape[1], ignore_mismatched_sizes=True)


def read_peft(case, folder, pixels, ours):
    """As a user does: the base model that the folder names, then the adapter on it."""
    import peft
    import torch

    with inside(folder), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        config = peft.PeftConfig.from_pretrained(".")
        base = base_model(config.base_model_name_or_path, ours)
        untouched = logits_of(base, pixels)
        model = peft.PeftModel.from_pretrained(base, ".")
    told = [str(w.message) for w in warned if any(word in str(w.message).lower() for word in ("missing", "unexpected", "mismatch", "ignored"))]
    # The folder names each layer as both versions of transformers do; patterns for the other version's names have nothing to match.
    expected = [words for words in told if "_pattern keys" in words and not any(mine(key) for key in re.findall(r"'([^']*)'", words))]
    wrong = [words for words in told if words not in expected]
    placed = sum(hasattr(module, "adapter_layer_names") for module in model.modules())
    fine = f"{placed} layers, " + ("patterns for the other names set aside" if expected else "no complaint")
    say(case, f"PEFT, {config.peft_type.value} loads", "; ".join(wrong) or fine, not wrong)
    compare(case, "PEFT, logits", logits_of(model, pixels), ours)
    moved = (untouched - ours).abs().max().item()
    say(case, "  (so the check can fail)", f"the base model alone is {moved:.1e} away", moved > 100 * TOLERANCE)
    try:
        compare(case, "PEFT, merged", logits_of(model.merge_and_unload(), pixels), ours)
    except Exception as error:  # some methods cannot merge in PEFT
        say(case, "PEFT, merged", f"not merged by PEFT: {error}")


def one_dialect(case, folder, pixels, ours):
    """The same folder with the other library version's names taken out of the file: both sets of names must be whole."""
    import peft
    import safetensors.torch

    tensors = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    kept = {key: value for key, value in tensors.items() if mine(key)}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scratch = pathlib.Path(scratch)
        safetensors.torch.save_file(kept, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
        (scratch / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
        with inside(folder):
            base = base_model(peft.PeftConfig.from_pretrained(".").base_model_name_or_path, ours)
        model = peft.PeftModel.from_pretrained(base, scratch)
        compare(case, f"PEFT, names of transformers {major()} alone", logits_of(model, pixels), ours, f", {len(kept)} of {len(tensors)} tensors")


def read_adapterhub(case, folder, pixels, ours):
    """The base model, then the adapter and its head as AdapterHub's package loads them."""
    import adapters
    import torch
    import transformers

    with inside(folder):
        model = transformers.ViTForImageClassification.from_pretrained("base", num_labels=ours.shape[1])
        adapters.init(model)
        name = model.load_adapter(".", use_safetensors=True, set_active=True)
        trained = sum(parameter.numel() for key, parameter in model.named_parameters() if f".{name}." in key)
        say(case, "AdapterHub loads", f"{trained} parameters, active: {model.active_adapters}", trained > 0)
        compare(case, "AdapterHub, logits", logits_of(model, pixels), ours)
        model.set_active_adapters(None)
        moved = (logits_of(model, pixels) - ours).abs().max().item()
        say(case, "  (so the check can fail)", f"without the adapter it is {moved:.1e} away", moved > 10 * TOLERANCE)


def read_transformers(case, folder, pixels, ours):
    import numpy
    import transformers

    with inside(folder):
        model = transformers.AutoModelForImageClassification.from_pretrained(".")
        compare(case, "transformers, logits", logits_of(model, pixels), ours)
        names = [model.config.id2label[n] for n in range(model.config.num_labels)]
        say(case, "transformers, class names", ", ".join(names[:4]) + " ...", names == CLASSES)
        try:
            prepared = transformers.ViTImageProcessor.from_pretrained(".")
        except Exception as error:
            return say(case, "transformers, image processor", f"SKIPPED, it needs a package that is missing: {str(error).splitlines()[0]}")
        image = numpy.arange(32 * 32 * 3, dtype=numpy.uint8).reshape(32, 32, 3)
        theirs = numpy.asarray(prepared(image, return_tensors="np")["pixel_values"])[0]
        mean, deviation = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) if model.config.model_type == "swin" else ([0.5] * 3, [0.5] * 3)
        ours = (image.transpose(2, 0, 1) / 255 - numpy.reshape(mean, (3, 1, 1))) / numpy.reshape(deviation, (3, 1, 1))
        apart = abs(theirs - ours).max()
        say(case, "transformers, image processor", f"pixels differ by {apart:.1e} from (byte / 255 - {mean}) / {deviation}", apart < 1e-5)


def check(case, session, changes, forms, scratch):
    import safetensors.torch
    import torch

    global CLASSES
    run = scratch / "run"
    sets = [part for change in SMALL + changes for part in ("--set", change)]
    code, _, words = petl("train", session, *sets, "--out", run)
    if code:
        return say(case, "petl train", words, False)
    torch.manual_seed(5)
    pixels = (torch.randint(0, 256, (8, 3, 32, 32)) / 127.5 - 1).float()
    safetensors.torch.save_file({"pixel_values": pixels}, scratch / "in.safetensors")
    code, _, words = petl("predict", run, "--inputs", scratch / "in.safetensors", "--out", scratch / "out.safetensors")
    if code:
        return say(case, "petl predict", words, False)
    with safetensors.safe_open(scratch / "out.safetensors", "pt") as file:
        ours, CLASSES = file.get_tensor("logits"), json.loads(file.metadata()["classes"])
    for kind, package in (("peft", "peft"), ("adapterhub", "adapters"), ("transformers", "transformers")):
        folder = scratch / kind
        code, _, words = petl("export", run, "--as", kind, folder)
        must = kind[0] in forms
        if code == 2:
            say(case, f"as {kind}", f"not in this form: {words.removeprefix('petl: ')}", not must)
        elif code or not must:
            say(case, f"as {kind}", words or "leaves, which this list does not expect", False)
        elif version(package) is None or version("transformers") is None:
            skipped.append(package)
            say(case, f"as {kind}", f"SKIPPED: {package} is not installed here")
        elif kind == "peft":
            read_peft(case, folder, pixels, ours)
            one_dialect(case, folder, pixels, ours)
        elif kind == "adapterhub":
            read_adapterhub(case, folder, pixels, ours)
        else:
            read_transformers(case, folder, pixels, ours)


def main():
    global PROGRAM
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    parser.add_argument("--petl", default=target / "release/petl", help="the program (default: of the last build)")
    parser.add_argument("--keep", type=pathlib.Path, help="keep runs and exports here")
    parser.add_argument("--only", help="one case by name")
    wanted = parser.parse_args()
    PROGRAM = str(wanted.petl)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    packages = {name: version(name) for name in ("torch", "peft", "adapters", "transformers", "safetensors", "numpy", "pillow")}
    print("petl", petl("--version")[1].split()[-1], *(f"· {name} {found or 'MISSING'}" for name, found in packages.items()))
    missing = [name for name in ("torch", "safetensors", "transformers", "peft") if packages[name] is None]
    if missing:
        print(f"\n!!! NOT CHECKED with the real {', '.join(missing)}: not installed in {sys.executable}. See tests/interop/README.md\n")
        if "torch" in missing or "safetensors" in missing:
            return 3
    if packages["transformers"]:
        import transformers.utils.logging as quiet

        quiet.disable_progress_bar()
    presets = {entry["name"] for entry in json.loads(petl("list", "presets", "--json")[1])}
    for case, session, changes, forms in CASES:
        if wanted.only not in (None, case):
            continue
        if not session.endswith(".toml") and session not in presets:
            say(case, "preset", f"this petl has no preset `{session}`", False)
            continue
        with contextlib.ExitStack() as stack:
            scratch = wanted.keep / case.replace(" ", "-") if wanted.keep else pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            scratch.mkdir(parents=True, exist_ok=True)
            try:
                check(case, session, changes, forms, scratch.resolve())
            except Exception as error:
                say(case, "the check itself", f"{type(error).__name__}: {error}", False)
    good, bad = sum(ok is True for *_, ok in results), sum(ok is False for *_, ok in results)
    print(f"\n{good} checks agree, {bad} do not")
    if skipped:
        print(f"!!! NOT CHECKED: {len(skipped)} folders, for want of {', '.join(sorted(set(skipped)))}")
    return 1 if bad else 3 if missing or skipped else 0


if __name__ == "__main__":
    sys.exit(main())
