"""AuraFlow (Fal 2024): joint blocks, then single blocks over one sequence, text first."""

from __future__ import annotations

from diffeat.backbones.conditioning import TextReader, t5_states, text_length
from diffeat.backbones.pipeline import VAE
from diffeat.backbones.tensors import joint_attention, single_attention, transformer
from diffeat.backbones.text_transformers import TextTransformer
from diffeat.hooks import Tap


class AuraFlow(TextTransformer):
    """Reads one T5; learned register tokens stand before the text's."""

    family = "auraflow"
    covers = "AuraFlow (AuraFlowTransformer2DModel)"
    example = "fal/AuraFlow-v0.3"
    denoiser_classes = ("AuraFlowTransformer2DModel",)
    lora_loader = "AuraFlowLoraLoaderMixin"
    components = {  # noqa: RUF012
        "vae": VAE,
        "text_encoder": "transformers.UMT5EncoderModel",
        "tokenizer": "transformers.LlamaTokenizerFast",
    }
    stages = (("block", "joint_transformer_blocks"), ("single", "single_transformer_blocks"))

    def list_block(self, block, name, path):
        tokens = "last" if name.startswith("single") else "all"
        tap = None if tokens == "last" else Tap(path, item=1)
        place = name, path, self.width, self.multiple
        at = yield from transformer(*place, "attn", tap, joined=tokens)
        yield at.also("text", Tap(path), self.width, "text", 0, tokens=tokens)
        attend = single_attention if tokens == "last" else joint_attention
        yield from attend(at, block.attn, f"{path}.attn", "last", self.registers)
        inner = Tap(f"{path}.ff.out_projection", "input")
        width = block.ff.out_projection.in_features
        yield at.also("ff.inner", inner, width, "NLD", tokens=tokens)

    @property
    def embedding_shapes(self):
        length = text_length(self.extras.get("tokenizer"), 256)
        return {"encoder_hidden_states": (length, self.config["joint_attention_dim"])}

    def text_tokens(self, length=None):
        return super().text_tokens(length) + self.registers

    @property
    def registers(self):
        return self.denoiser.register_tokens.shape[1]

    @property
    def text_readers(self):
        length = self.embedding_shapes["encoder_hidden_states"][0]
        return TextReader.among(self.extras, "tokenizer", length, self.registers)

    @property
    def largest(self):
        return int(self.config["pos_embed_max_size"] ** 0.5) * self.multiple

    def encode_prompts(self, prompts):
        """The T5's last state; padding is set to 0."""
        length = self.embedding_shapes["encoder_hidden_states"][0]
        states, mask = t5_states(
            self.extras["tokenizer"], self.extras["text_encoder"], prompts, length, self.name,
            self.device, masked=True,
        )  # fmt: skip
        return {"encoder_hidden_states": states * mask[..., None]}

    def call_arguments(self, x, t, condition):
        return super().call_arguments(x, t / self.schedule.steps, condition)
