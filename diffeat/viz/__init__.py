"""Pictures of results: grids, sheets of maps, matches, curves, confusion matrices, a page."""

import diffeat.companions  # noqa: F401 - before anything imports `probes`
from diffeat.viz.confusion import confusion_lines, confusion_picture, largest_confusions
from diffeat.viz.curves import learning_curve, score_curves
from diffeat.viz.frames import frame_strip
from diffeat.viz.grids import heat_map
from diffeat.viz.maps import agreement, channel_rgb, feature_sheet, laid, pca_rgb
from diffeat.viz.masks import class_colours, class_overlay, distinct_colours, mask_sheet
from diffeat.viz.matches import mask_over, match_lines, similarity_sheet, warp_sheet
from diffeat.viz.page import Predictions, write_page
from diffeat.viz.pair_page import write_pair_page
from diffeat.viz.scales import Scale, contrast, ink
from diffeat.viz.surface_page import cell_facts, write_surface_page

__all__ = [
    "Predictions",
    "Scale",
    "agreement",
    "cell_facts",
    "channel_rgb",
    "class_colours",
    "class_overlay",
    "confusion_lines",
    "confusion_picture",
    "contrast",
    "distinct_colours",
    "feature_sheet",
    "frame_strip",
    "heat_map",
    "ink",
    "laid",
    "largest_confusions",
    "learning_curve",
    "mask_over",
    "mask_sheet",
    "match_lines",
    "pca_rgb",
    "score_curves",
    "similarity_sheet",
    "warp_sheet",
    "write_page",
    "write_pair_page",
    "write_surface_page",
]
