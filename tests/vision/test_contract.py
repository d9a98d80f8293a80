"""What vision models declare and deliver, against plain forwards of timm and transformers."""

from __future__ import annotations

import pytest
import timm
import torch
import transformers as hf

import diffeat
from tests.vision.conftest import hub_model

EXACT = {"rtol": 1e-5, "atol": 1e-5}
HALF, WHOLE = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406)
SPREAD = (0.229, 0.224, 0.225)
TIMM = {
    "test_vit": "blocks",
    "test_vit2": "blocks",
    "test_vit4": "blocks",
    "test_efficientnet": "blocks",
    "test_resnet": "layers",
    "test_convnext": "stages",
}
