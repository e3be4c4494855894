"""Records a small vision transformer in torch, named as DINO's own checkpoints, and what it makes of pictures.

Needs torch: `python tests/record_dino.py` writes tests/data/dino.pth (torch's newer format, an archive) and dino.npz.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn

DATA = Path(__file__).parent / "data"
WIDTH, MLP, LAYERS, SIDE, PATCH = 16, 20, 2, 12, 4


class Block(nn.Module):
    """Attention and MLP, each after a layer norm and around a shortcut (Dosovitskiy et al. 2021)."""

    def __init__(self, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(WIDTH, 3 * WIDTH), "proj": nn.Linear(WIDTH, WIDTH)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, MLP), "fc2": nn.Linear(MLP, WIDTH)})

    def forward(self, x):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.attn["proj"](mixed.transpose(1, 2).flatten(2))
        return x + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(x))))


class Vit(nn.Module):
    """The class token after `LAYERS` blocks and the last norm, [N, WIDTH] of [N, 3, SIDE, SIDE]."""

    def __init__(self, heads: int = 1):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.zeros(1, (SIDE // PATCH) ** 2 + 1, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, PATCH)})
        self.blocks = nn.ModuleList(Block(heads) for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 0.1, 0.4)

    def forward(self, images):
        x = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def features(vit: Vit, images: np.ndarray) -> np.ndarray:
    """[N, WIDTH] of prepared images [N, SIDE, SIDE, 3]."""
    with torch.no_grad():
        return vit(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()


def main() -> None:
    """Write both files."""
    torch.manual_seed(0)
    vit, images = Vit(), np.random.default_rng(0).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    torch.save(vit.state_dict(), DATA / "dino.pth")
    np.savez(DATA / "dino.npz", images=images, features=features(vit, images))


if __name__ == "__main__":
    main()
