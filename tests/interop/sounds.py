#!/usr/bin/env python3
"""Loads what `petl export` wrote of networks that hear with the real programs (PEFT, transformers) and compares with `petl predict`.

    sounds.py [--petl PROGRAM]

Trains small runs on invented tones with the tiny networks of tests/fixtures/backbones, exports each as a PEFT folder and as a transformers
folder, and reads them back; the front end that the folder describes is held to ours, too. Ends with 0 when all agree within 1e-4, else 1.
"""
import argparse
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import warnings
import wave

import numpy
import peft
import safetensors.torch
import torch
import transformers

HERE = pathlib.Path(__file__).resolve().parent
BACKBONES = HERE.parent / "fixtures/backbones"
TOLERANCE = 1e-4
wrong = 0


def say(case, check, apart, most=TOLERANCE):
    global wrong
    wrong += not apart < most
    print(f"{'ok     ' if apart < most else 'WRONG  '} {case:28} {check:36} {apart:.1e}", flush=True)


def petl(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"petl {' '.join(map(str, arguments))}: {done.stderr}")


def tones(folder):
    for n in range(12):
        place = folder / ("low", "high")[n % 2] / f"{n}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(place), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
            pitch = (0.05, 0.9)[n % 2] + n * 0.01
            file.writeframes(struct.pack("<9000h", *(int(9000 * math.sin(k * pitch)) for k in range(9000))))
    return place


def read(path, name):
    with safetensors.safe_open(path, "pt") as file:
        return file.get_tensor(name)


@torch.no_grad()
def check(case, backbone, seconds, preset, cls, inputs, scratch):
    data, run = scratch / "tones", scratch / "run"
    sets = [f"backbone.name={'whisper' if 'whisper' in backbone else 'ast'}", f"backbone.settings.folder={BACKBONES / backbone}",
            f"backbone.settings.seconds={seconds}", "data.name=audio-folder", f"data.settings.folder={data}", "recipe.epochs=4",
            "recipe.batch_size=4", "recipe.learning_rate=0.01", "device=cpu"]
    last = tones(data)
    petl("train", preset, *(part for change in sets for part in ("--set", change)), "--out", run)
    for kind in ("transformers", "peft"):
        petl("export", run, "--as", kind, scratch / kind)
    extractor = transformers.AutoFeatureExtractor.from_pretrained(scratch / "transformers")
    with wave.open(str(last)) as file:
        sound = numpy.frombuffer(file.readframes(9000), numpy.int16).astype(numpy.float32) / 32768
    mel = torch.from_numpy(numpy.asarray(extractor(sound, sampling_rate=16000, return_tensors="np")[inputs]))
    noise = torch.randn(3, *mel.shape[1:], generator=torch.Generator().manual_seed(1))
    given = torch.cat([mel, noise])
    safetensors.torch.save_file({inputs: given.contiguous()}, scratch / "in.safetensors")
    petl("predict", run, "--inputs", scratch / "in.safetensors", "--out", scratch / "out.safetensors")
    ours = read(scratch / "out.safetensors", "logits")
    whole = cls.from_pretrained(scratch / "transformers").eval()
    say(case, "transformers, logits", (whole(given).logits - ours).abs().max().item())
    os.chdir(scratch / "peft")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        config = peft.PeftConfig.from_pretrained(".")
        base = cls.from_pretrained(config.base_model_name_or_path, num_labels=2, ignore_mismatched_sizes=True).eval()
        model = peft.PeftModel.from_pretrained(base, ".").eval()
    told = [str(w.message) for w in warned if any(word in str(w.message).lower() for word in ("missing", "unexpected"))]
    say(case, "PEFT, complaints " + "; ".join(told)[:200], len(told), 1)
    say(case, "PEFT, logits", (model(given).logits - ours).abs().max().item())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
    parser.add_argument("--petl", default=target / "release/petl", help="the program (default: of the last build)")
    PROGRAM = str(pathlib.Path(parser.parse_args().petl).resolve())
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    transformers.utils.logging.disable_progress_bar()
    for name, seconds, preset, cls, inputs in [
        ("whisper", 0, "digits-lora", transformers.WhisperForAudioClassification, "input_features"),
        ("whisper", 0, "ia3", transformers.WhisperForAudioClassification, "input_features"),
        ("ast", 0, "digits-lora", transformers.ASTForAudioClassification, "input_values"),
        ("ast-classifier", 0, "ia3", transformers.ASTForAudioClassification, "input_values"),
        ("ast", 0.2, "digits-lora-all", transformers.ASTForAudioClassification, "input_values"),
    ]:
        with tempfile.TemporaryDirectory() as scratch:
            check(f"{name} {seconds or ''} {preset}", name, seconds, preset, cls, inputs, pathlib.Path(scratch).resolve())
    print(f"\n{wrong} do not agree")
    sys.exit(1 if wrong else 0)
