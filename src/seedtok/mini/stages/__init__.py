"""Stages of the mini foundations: CLIP, autoencoder, diffusion model, language model, judge."""
