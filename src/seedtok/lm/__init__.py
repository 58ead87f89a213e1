"""Section 3: SEED-OPT, a language model that reads and writes pictures as 32 codes."""
