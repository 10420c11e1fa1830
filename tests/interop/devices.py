#!/usr/bin/env python3
"""Trains every preset for one epoch on the CPU and on a GPU and compares what the two say, step by step.

    devices.py PETL [--device "gpu 0"] [--side-by-side 3]

PETL is the built program. A row a preset: how far the losses of both are apart, as a part of the CPU's, at the first step and at most; the
accuracies after the epoch. Ends with 1 where a run fails, where the first losses are more than 1e-5 apart, or the accuracies more than 0.02.
Rounding differs between devices and grows from step to step, so later losses are shown and not judged.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor


def run(petl, preset, device, folder):
    """The losses by step and the accuracy at the end; the program's words where it fails."""
    short = ["--set", f"device={device}", "--set", "recipe.epochs=1", "--set", "recipe.report_every=5"]
    done = subprocess.run([petl, "train", preset, *short, "--out", folder], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()[-300:]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    losses = {e["step"]: e["loss"] for e in events if e["event"] == "step"}
    return losses, next(e["accuracy"] for e in events if e["event"] == "finished")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("petl", type=pathlib.Path)
    parser.add_argument("--device", default="gpu 0")
    parser.add_argument("--side-by-side", type=int, default=3)
    asked = parser.parse_args()
    petl = str(asked.petl.resolve())
    listed = subprocess.run([petl, "list", "presets", "--json"], capture_output=True, text=True, check=True).stdout
    names = [preset["name"] for preset in json.loads(listed)]
    bad = 0
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(asked.side_by_side) as pool:
        both = lambda name: [run(petl, name, d, pathlib.Path(home) / f"{name}.{n}") for n, d in enumerate(["cpu", asked.device])]
        for name, (cpu, gpu) in zip(names, pool.map(both, names)):
            fault = next((words for words in (cpu, gpu) if isinstance(words, str)), None)
            if fault:
                print(f"{name:24} FAILED: {fault}")
                bad += 1
                continue
            apart = [abs(gpu[0][step] - loss) / max(abs(loss), 1e-6) for step, loss in cpu[0].items()]
            wrong = apart[0] > 1e-5 or abs(cpu[1] - gpu[1]) > 0.02
            bad += wrong
            print(f"{name:24} first {apart[0]:.1e} most {max(apart):.1e}  accuracy {cpu[1]:.3f} and {gpu[1]:.3f}{'  APART' if wrong else ''}")
    print(f"{len(names)} presets, {bad} fail")
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
