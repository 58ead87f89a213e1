"""Section 3: SEED-OPT, a language model that reads and writes images as 32 codes."""
