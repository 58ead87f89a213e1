"""Recipes of the mini size: every part of the paper on two CPU cores, with no download.

The paper has no mini size, so every value is ours unless it says paper. They train on scenes drawn by many hands, in
this order: vision, text, autoencoder, diffusion, bidirectional, stage1, stage2; judge and eval_clip for the evaluation;
opt, stage3a, stage3b, instructed. What SEED is compared with: blip2, and reader on the codes of vqvae and beit2; gill.
The weights in the package are what one run of each gave, in this order. Rates below are of one core, while another run
was on the other; numbers are of validation scenes, other combinations of things by the same hands.
"""

from seedtok.mini.recipes.baselines import beit2, blip2, gill, reader, vqvae
from seedtok.mini.recipes.foundations import autoencoder, diffusion, eval_clip, judge, lcm, opt, text, vision
from seedtok.mini.recipes.seed import bidirectional, instructed, stage1, stage2, stage3a, stage3b

__all__ = [
    "autoencoder", "beit2", "bidirectional", "blip2", "diffusion", "eval_clip", "gill", "instructed", "judge", "lcm",
    "opt", "reader", "stage1", "stage2", "stage3a", "stage3b", "text", "vision", "vqvae",
]  # fmt: skip
