"""The names that papers gave to the tensors of OpenAI's U-Nets, on converted networks."""

from __future__ import annotations

import pytest
import torch

import diffeat
from tests.scripts.test_convert import Adm, T, X


class Rows(Adm):
    """Keeps what input_blocks, the middle and output_blocks put out, each as one unit."""

    def forward(self, x, t, label=None):
        outputs = super().forward(x, t, label)
        counts = [len(b) for b in (*self.input_blocks, self.middle_block, *self.output_blocks)]
        ends = torch.tensor(counts).cumsum(0) - 1
        self.row = [outputs[end] for end in ends]
        return outputs


@pytest.mark.parametrize("resnets", [True, False], ids=["resnets", "convolutions"])
@pytest.mark.parametrize("attended", [(), (1,), (0, 1, 2)])
def test_units_of_openai(converted, resnets, attended):
    """The upsampler, resnet or convolution, is the last part of its unit of output_blocks."""
    reference = Rows(mult=(1, 1, 2), attended=attended, resnets=resnets, layers=1)
    folder = converted("adm", reference.state_dict(), "--size", 8, "--head-channels", 32)
    backbone = diffeat.load(str(folder), dtype="float32")
    assert backbone.family == "adm"
    reference.double()(X.double(), T)  # what float32 rounds off is not the question
    row, outputs = reference.row, reference.row[-len(reference.output_blocks) :]
    wanted = {f"{name}:{k}": out for name in ("dift", "ddpm-seg") for k, out in enumerate(outputs)}
    wanted |= {f"gdc:{b}": out for b, out in enumerate(row, 1)}
    systems = ("dift:", "ddpm-seg:", "gdc:")
    assert {name for name in backbone.aliases if name.startswith(systems)} == set(wanted)
    found = tensors(backbone, set(wanted))
    for name, expected in wanted.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def tensors(backbone, names) -> dict[str, torch.Tensor]:
    """By plain hooks on the modules that the names are resolved to."""
    places = {block.name: block.path for block in backbone.tensors if not block.tensor}
    found, seen = {}, {}
    for name in names:
        path = places[backbone.aliases[name]]
        backbone.denoiser.get_submodule(path).register_forward_hook(
            lambda _module, _args, out, path=path: seen.update({path: out})
        )
        found[name] = path
    backbone.denoiser.double()(X.double(), T)
    firsts = {path: out[0] if isinstance(out, tuple) else out for path, out in seen.items()}
    return {name: firsts[path] for name, path in found.items()}
