"""Small data sets of pairs, written as the published ones lie on the disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

WIDTH, HEIGHT = 40, 30


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """A picture of its own colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = sum(path.name.encode()) * 7 % 256
    Image.new("RGB", size, (shade, 255 - shade, 128)).save(path)


def write(path: Path, text: str | dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), "utf-8")


def spair_pair(a: str = "a.jpg", b: str = "b.jpg", category: str = "cat", **others) -> dict:
    """The annotation of a pair with two key points."""
    return {
        "src_imname": a, "trg_imname": b, "category": category,
        "src_imsize": [WIDTH, HEIGHT, 3], "trg_imsize": [WIDTH, HEIGHT, 3],
        "src_bndbox": [1, 2, 30, 25], "trg_bndbox": [2, 3, 36, 28],
        "kps_ids": ["0", "7"], "src_kps": [[3, 4], [20.5, 10]], "trg_kps": [[5, 6], [22, 12.25]],
        "mirror": 0, "pair_id": 0,
    } | others  # fmt: skip


def spair(root: Path) -> None:
    """Four pairs of two categories in test, one of them not in the small list; one in val."""
    for category in ("cat", "dog"):
        for name in ("a", "b", "c"):
            picture(root / "JPEGImages" / category / f"{name}.jpg")
            person = {"person": "Ann"} if (category, name) == ("cat", "a") else {}
            write(root / "ImageAnnotation" / category / f"{name}.json", {"kps": {}, **person})
    pairs = [
        ("000003-a-b:cat", spair_pair(mirror=1)),
        ("000001-b-a:cat", spair_pair("b.jpg", "a.jpg")),
        ("000000-a-c:dog", spair_pair("a.jpg", "c.jpg", "dog")),
        ("000002-c-b:dog", spair_pair("c.jpg", "b.jpg", "dog")),
    ]
    for name, said in pairs:
        write(root / "PairAnnotation" / "test" / f"{name}.json", said)
    write(root / "PairAnnotation" / "val" / "000000-c-b:cat.json", spair_pair("c.jpg"))
    names = [name for name, _ in pairs]
    write(root / "Layout" / "large" / "test.txt", "\n".join(names) + "\n")
    write(root / "Layout" / "small" / "test.txt", "\n".join(names[:3]) + "\n")


def pf_pascal(root: Path) -> None:
    points = {"p": [[3, 4], [np.nan, np.nan], [8.5, 9]], "q": [[5, 6], [7, 8], [10, 11]],
              "r": [[np.nan, np.nan], [1, 2], [3, 3]]}  # fmt: skip
    for name, kps in points.items():
        picture(root / "JPEGImages" / f"{name}.jpg")
        path = root / "Annotations" / "cat" / f"{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"kps": np.array(kps), "bbox": np.array([[1.0, 2.0, 30.0, 20.0]])})
    paths = [f"PF-dataset-PASCAL/JPEGImages/{name}.jpg" for name in "pqr"]
    rows = [(0, 1, 0), (0, 1, 1), (1, 2, 0)]
    write(root / "trn_pairs.csv", "source_image,target_image,class,flip\n"
          + "".join(f"{paths[a]},{paths[b]},8,{flip}\n" for a, b, flip in rows))  # fmt: skip
    write(root / "test_pairs_pf_pascal.csv", "source_image,target_image,class,XA,YA,XB,YB\n"
          f"{paths[0]},{paths[1]},8,3;8.5,4;9,5;10,6;11\n")  # fmt: skip


def pf_willow(root: Path) -> None:
    header = ["imageA", "imageB"] + [f"{axis}{side}{k}" for side in "AB" for axis in "XY"
                                     for k in range(1, 11)]  # fmt: skip
    rows = [header]
    for a, b in (("1", "2"), ("2", "1")):
        row = [f"PF-dataset/duck(S)/{name}.png" for name in (a, b)]
        row += [*range(1, 11), *range(11, 21), *range(2, 12), *range(12, 22)]
        rows.append(list(map(str, row)))
    for name in "12":
        picture(root / "PF-dataset" / "duck(S)" / f"{name}.png")
    write(root / "test_pairs.csv", "\n".join(map(",".join, rows)) + "\n")


CUB_PICTURES = tuple(
    f"{kind}/{kind[4:]}_{k}.jpg" for kind in ("001.Auk", "002.Owl") for k in range(5)
)


def cub(root: Path) -> None:
    """Two classes; the last picture of each is for training; one part is never seen in Owl_0."""
    numbers = list(enumerate(CUB_PICTURES, 1))
    for _, name in numbers:
        picture(root / "images" / name)
    write(root / "images.txt", "".join(f"{k} {name}\n" for k, name in numbers))
    write(root / "train_test_split.txt",
          "".join(f"{k} {int(name.endswith('4.jpg'))}\n" for k, name in numbers))  # fmt: skip
    write(root / "bounding_boxes.txt", "".join(f"{k} 2.0 3.0 20.0 {10 + k}.0\n"
                                               for k, _ in numbers))  # fmt: skip
    write(root / "parts" / "parts.txt", "1 back\n2 beak\n3 left eye\n4 tail\n")
    lines = []
    for k, _ in numbers:
        for part in (1, 2, 3, 4):
            hidden = part == 2 and k == 6
            lines.append(f"{k} {part} {0.0 if hidden else k + part} {part * 2}.5 {int(not hidden)}")
    write(root / "parts" / "part_locs.txt", "\n".join(lines) + "\n")


def ap10k(root: Path) -> None:
    """Two species of cats and one of dogs with three pictures each, and one of two animals."""
    kinds = [(1, "lion", "Felidae"), (2, "lynx", "Felidae"), (3, "wolf", "Canidae")]
    names = ["eye", "nose", "tail", "paw"]
    images, annotations = [], []
    for species, _, _ in kinds:
        for k in range(3):
            number = 10 * species + k
            images.append({"id": number, "file_name": f"{number:05}.jpg", "width": WIDTH,
                           "height": HEIGHT})  # fmt: skip
            third = (0, 0, 0) if k == 2 else (12, 13, 1)
            points = [5 + species, 6 + k, 2, 9, 10, 2, *third, 20, 21, 2]
            annotations.append({"id": number, "image_id": number, "category_id": species,
                                "bbox": [2, 3, 30, 20], "keypoints": points})  # fmt: skip
    images.append({"id": 99, "file_name": "00099.jpg", "width": WIDTH, "height": HEIGHT})
    annotations += [{**annotations[0], "id": 98 + k, "image_id": 99} for k in (0, 1)]
    for one in images:
        picture(root / "data" / one["file_name"])
    categories = [{"id": k, "name": name, "supercategory": family, "keypoints": names}
                  for k, name, family in kinds]  # fmt: skip
    write(root / "annotations" / "ap10k-test-split1.json",
          {"images": images, "annotations": annotations, "categories": categories})  # fmt: skip


def geoaware(root: Path) -> None:
    """AP-10K as GeoAware-SC arranges it."""
    seen = {"a": (2, 2, 2, 2), "b": (2, 0, 2, 2), "c": (0, 0, 2, 2)}
    for name, flags in seen.items():
        picture(root / "JPEGImages" / "Felidae" / "lion" / f"{name}.jpg")
        points = [value for k, flag in enumerate(flags) for value in (3 + k, 4 + k, flag)]
        write(root / "ImageAnnotation" / "Felidae" / "lion" / f"{name}.json",
              {"keypoints": points, "bbox": [2, 3, 30, 20], "width": WIDTH,
               "height": HEIGHT})  # fmt: skip
    for number, (a, b) in enumerate(("ab", "bc")):
        write(root / "PairAnnotation" / "test" / f"{number}-{a}-{b}:lion.json",
              {f"{side}_json_path": f"data/ap-10k/ImageAnnotation/Felidae/lion/{name}.json"
               for side, name in (("src", a), ("trg", b))})  # fmt: skip


def flo(path: Path, flow: np.ndarray) -> None:
    """Middlebury's form, written by hand."""
    height, width = flow.shape[:2]
    values = [float(value) for value in flow.ravel()]
    path.write_bytes(b"PIEH" + struct.pack("<ii", width, height)
                     + struct.pack(f"<{len(values)}f", *values))  # fmt: skip


def tss(root: Path) -> None:
    """One pair that is moved by 3, 2, and one that is seen from the other side."""
    for scene, flip in (("JODS/apple_1", False), ("PASCAL/bus", True)):
        folder = root / scene
        for number, sign in ((1, 1), (2, -1)):
            picture(folder / f"image{number}.png")
            flow = np.full((HEIGHT, WIDTH, 2), (3.0 * sign, 2.0 * sign))
            flow[0] = 1e10
            flo(folder / f"flow{number}.flo", flow)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[:20, 5:35] = 255
            Image.fromarray(mask).save(folder / f"mask{number}.png")
        if flip:
            write(folder / "flip_gt.txt", "1\n")


MATRIX = np.array([[1.1, 0.05, -2.0], [-0.03, 0.95, 1.5], [1e-3, -5e-4, 1.0]])


def hpatches(root: Path) -> None:
    for scene, ending in (("i_light", "ppm"), ("v_wall", "png"), ("v_talent", "jpg")):
        for number in (1, 2, 10):
            picture(root / scene / f"{number}.{ending}", (WIDTH + number, HEIGHT))
        for number in (2, 10):
            rows = "\n".join(" ".join(map(repr, row)) for row in (MATRIX / number).tolist())
            write(root / scene / f"H_1_{number}", rows + "\n")


LAYOUTS: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "spair": (spair, "test", "JPEGImages"),
    "pf-pascal": (pf_pascal, "trn", "JPEGImages"),
    "pf-willow": (pf_willow, "test", "PF-dataset"),
    "cub": (cub, "test", "images"),
    "ap10k": (ap10k, "test", "data"),
    "tss": (tss, "all", ""),
    "hpatches": (hpatches, "all", ""),
}
"""Named set → what writes it, a split, and the folder that ids start at."""
