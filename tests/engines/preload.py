"""What a worker process imports, and what loading a model imports."""

import torch
from diffusers import DDPMPipeline, UNet2DModel  # noqa: F401

import tests.engines.common
import tests.pipelines  # noqa: F401

torch.set_num_threads(1)
