"""The page of clusters: nearest pictures first, classes counted, text that stays text."""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffeat.viz.cluster_page import write_cluster_page
from tests.viz.test_page import EVIL, Reader


def test_page(tmp_path):
    found = np.array([1, 0, 1, 1, 0, 1])
    apart = np.array([3.0, 0.5, 1, 2, 0.1, 4])
    ids = [*EVIL, "p/3.png", "p/4.png", "p/5.png"]
    labels = ["cat", "<b>dog</b>", "cat", "<b>dog</b>", "", "cat"]
    shown = []

    def picture(name):
        shown.append(name)
        return Image.new("RGB", (20, 10), (10 * ids.index(name), 0, 0))

    write_cluster_page(tmp_path / "p.html", found, apart, ids, "made <up>", {"cell": "mid"},
                       picture, labels, ["nearest first"])  # fmt: skip
    text = (tmp_path / "p.html").read_text("utf-8")
    page = Reader(text)
    # the larger cluster first, in it the nearest picture
    assert shown == [ids[k] for k in (2, 3, 0, 5, 4, 1)]
    assert [one.getpixel((0, 0))[0] for one in page.pictures] == [20, 30, 0, 50, 40, 10]
    assert "Cluster 1: 4 pictures" in page.text
    assert "cat 3, <b>dog</b> 1" in page.text
    assert {"script", "b"} & set(page.tags) == {"b"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'" in text


def test_without_pictures_and_labels(tmp_path):
    count = 400
    found = np.arange(count) % 50
    ids = [f"{k}.png" for k in range(count)]
    write_cluster_page(tmp_path / "p.html", found, np.ones(count), ids, "made", {})
    page = Reader((tmp_path / "p.html").read_text("utf-8"))
    assert page.pictures == []
    assert page.tags.count("figure") == 50 * 3  # 160 thumbnails are shared out
