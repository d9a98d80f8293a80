"""Pictures of one's own, to try diffeat with: scikit-learn's digits as PNG files and a table.

    python scripts/example_pictures.py own

makes own/labels.csv (path,label), own/pictures/ with the pictures that it names, and own/new/ with
some that nobody has labelled; own/truth.csv says what those show.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labelled", type=int, default=900, help="pictures with a label")
    parser.add_argument("--new", type=int, default=100, help="pictures without one")
    asked = parser.parse_args()
    pictures, classes = load_digits(return_X_y=True)
    first, last = asked.labelled, asked.labelled + asked.new
    write(asked.folder, "pictures", "labels.csv", pictures[:first], classes[:first])
    write(asked.folder, "new", "truth.csv", pictures[first:last], classes[first:last])
    print(f"{asked.folder}: {asked.labelled} pictures in labels.csv, {asked.new} in new/")


def write(folder: Path, below: str, table: str, pictures: np.ndarray, classes: np.ndarray) -> None:
    """Write (N, 64) grey values of 0 … 16 as PNG files below `folder`, and their names."""
    (folder / below).mkdir(parents=True, exist_ok=True)
    rows = [("path", "label")]
    for number, (pixels, k) in enumerate(zip(pictures, classes, strict=True)):
        name = f"{below}/{number:04d}.png"
        grey = np.round(pixels.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        Image.fromarray(grey).save(folder / name)
        rows.append((name, NAMES[k]))
    with (folder / table).open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    main()
