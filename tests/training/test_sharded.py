"""What cannot be sharded is refused: parameters that a stage itself writes would be lost with the gathered copy."""

import pytest
from torch import nn

from seedtok.core.errors import ConfigError
from seedtok.tokenizer.codebook import Codebook, CodebookConfig
from seedtok.training.distributed import check_can_shard


@pytest.mark.parametrize(("restart_after", "ema_decay"), [(None, None), (None, 0.9), (7, 0.9)])
def test_a_codebook_that_an_optimizer_alone_writes_can_be_sharded(restart_after, ema_decay):
    config = CodebookConfig(8, 4, restart_after=restart_after, ema_decay=ema_decay)
    check_can_shard(nn.Sequential(nn.Linear(4, 4), Codebook(config)))


def test_codes_that_restart_are_refused():
    with pytest.raises(ConfigError, match=r"does not go with codes that restart: set stage\.restart_after=none"):
        check_can_shard(nn.Sequential(Codebook(CodebookConfig(8, 4, restart_after=7))))
