"""The two judges of digits, which take no part in training any generator (11_how_good_is_it).

About seven minutes on two cores. The sha256 of a released judge is pinned in `helpers/metrics.py`.
"""

import argparse
import hashlib

import torch
from running import RUNS, announce, errors_in_one_line, parse
from safetensors.torch import save

from helpers import write_whole
from helpers.metrics import JUDGES, DigitJudge, FeatureJudge, name_digits
from helpers.mnist import load_splits, to_float
from helpers.training import train_classifier

RECIPES = (("digits", 1234, 14, DigitJudge), ("features", 4321, 8, FeatureJudge))  # seed, epochs


def train(folder):
    """Train both on real pictures, write them, and print what they get right of the test set."""
    splits = load_splits()
    images, labels = splits["test"]
    for name, seed, epochs, kind in RECIPES:
        torch.manual_seed(seed)
        judge = train_classifier(kind(), *splits["train"], epochs)
        accuracy = (name_digits(judge, to_float(images)) == labels).float().mean().item()
        packed = save(judge.state_dict())
        write_whole(folder / f"{name}.safetensors", packed)
        sha256 = hashlib.sha256(packed).hexdigest()
        print(f"{name}: {accuracy:.2%} of the real test pictures; to pin in metrics.py: {sha256}")


def main():
    """Train the judges, and release them if the command line asks for it."""
    parser = argparse.ArgumentParser(description="Train the judges of digits anew.")
    parser.add_argument("action", choices=["train"])
    release, folder = parse(parser).release, RUNS / "judges"
    with errors_in_one_line():
        announce(7, JUDGES, folder, [JUDGES] if release else ())
        train(folder)
        for path in folder.glob("*.safetensors") if release else ():
            write_whole(JUDGES / path.name, path.read_bytes())


if __name__ == "__main__":
    main()
