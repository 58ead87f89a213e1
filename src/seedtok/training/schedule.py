"""The learning rate of a step, and the seed of its random numbers."""

import math

import numpy as np

from seedtok.training.config import Optimization


def learning_rate(optimization: Optimization, step: int) -> float:
    """Linear warm-up from 0, then a cosine down to `min_lr` at the last step."""
    o = optimization
    if step < o.warmup_steps:
        return o.lr * (step + 1) / o.warmup_steps
    done = (step - o.warmup_steps) / max(1, o.steps - o.warmup_steps)
    return o.min_lr + (o.lr - o.min_lr) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def noise_seed(*numbers: int) -> int:
    """A seed of numbers such as (seed, step, micro-batch, rank): the same in every version of Python."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
