"""Names and colours of classes of data sets, by index."""

from __future__ import annotations

from diffeat.images.paired_layouts import VOC_CLASSES

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car",
          "pedestrian", "bicyclist")  # fmt: skip
CAMVID_COLOURS = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222),
                  (128, 128, 0), (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0),
                  (0, 128, 192))  # fmt: skip
CLOTHING = ("background", "skin", "hair", "shoes", "trousers", "skirt", "dress", "top", "coat",
            "bag")  # fmt: skip
HORSES = ("background", "horse")
VOC = ("background", *VOC_CLASSES)
CITYSCAPES = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole",
    19: "traffic light", 20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky",
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle",
    33: "bicycle",
}  # fmt: skip
"""Number in labelIds → name of the 19 that are trained and tested on; all else does not count."""
CITYSCAPES_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
    (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60),
    (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
ADE20K = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass",
    "cabinet", "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain",
    "chair", "car", "water", "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field",
    "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp", "bathtub", "railing",
    "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand", "sink",
    "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case",
    "pool table", "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind",
    "coffee table", "toilet", "flower", "book", "hill", "bench", "countertop", "stove", "palm",
    "kitchen island", "computer", "swivel chair", "boat", "bar", "arcade machine", "hovel", "bus",
    "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight", "booth",
    "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister",
    "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank",
    "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen",
    "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan",
    "pier", "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass",
    "clock", "flag",
)  # fmt: skip
_FACE = ("left brow", "left ear", "left eye", "lower lip", "mouth", "neck", "necklace", "nose",
         "right brow", "right ear", "right eye", "skin", "upper lip")  # fmt: skip
DDPM_SEG = {
    "bedroom28": (
        "bed", "bed: footboard", "bed: headboard", "bed: side rail", "carpet", "ceiling",
        "chandelier / ceiling fan blade", "curtain", "cushion", "floor",
        "table / nightstand / dresser", "table / nightstand / dresser: top", "picture / mirror",
        "pillow", "lamp: column", "lamp: shade", "wall", "window", "curtain rod", "window: frame",
        "chair", "picture / mirror: frame", "plinth", "door / door frame", "pouf", "wardrobe",
        "plant", "table stuff",
    ),
    "ffhq34": (
        "background", "head", "cheek", "chin", "ear", "ear: helix", "ear: lobule",
        "eye: bottom lid", "eye: eyelashes", "eye: iris", "eye: pupil", "eye: sclera",
        "eye: tear duct", "eye: top lid", "eyebrow", "forehead", "frown", "hair",
        "hair: sideburns", "jaw", "moustache", "mouth: inferior lip", "mouth: oral commissure",
        "mouth: superior lip", "mouth: teeth", "neck", "nose", "nose: ala", "nose: bridge",
        "nose: tip", "nose: nostril", "philtrum", "temple", "wrinkles",
    ),
    "cat15": (
        "background", "back", "belly", "chest", "leg", "paw", "head", "ear", "eye", "mouth",
        "tongue", "nose", "tail", "whiskers", "neck",
    ),
    "horse21": (
        "background", "person", "back", "barrel", "bridle", "chest", "ear", "eye", "forelock",
        "head", "hoof", "leg", "mane", "muzzle", "neck", "nostril", "tail", "thigh", "saddle",
        "shoulder", "leg protection",
    ),
    "celeba19": ("background", "cloth", "earring", "eyeglasses", "hair", "hat", *_FACE),
    "ade-bedroom30": (
        "wall", "bed", "floor", "table", "lamp", "ceiling", "painting", "windowpane", "pillow",
        "curtain", "cushion", "door", "chair", "cabinet", "chest", "mirror", "rug", "armchair",
        "book", "sconce", "plant", "wardrobe", "clock", "light", "flower", "vase", "fan", "box",
        "shelf", "television",
    ),
}  # fmt: skip
"""By number from 0; bedroom28 by number from 1, since 0 does not count there."""


def voc_palette(count: int) -> list[list[int]]:
    """Colours by which PASCAL VOC's indexed PNGs show labels: the bits of a label, three by three,
    from the highest bit of red, green and blue downwards."""
    return [[sum((label >> 3 * k + c & 1) << 7 - k for k in range(8)) for c in range(3)]
            for label in range(count)]  # fmt: skip
