"""Networks of the mini diffusion model."""
