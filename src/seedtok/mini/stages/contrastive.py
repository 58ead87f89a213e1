"""Stage I with the mini world's text tokenizer, for a Q-Former that starts from nothing."""

from transformers import BertTokenizer

from seedtok.mini.text import bert_tokenizer
from seedtok.stages.contrastive import ContrastiveSettings


class MiniContrastiveSettings(ContrastiveSettings):
    def words(self) -> BertTokenizer:
        return bert_tokenizer() if self.text_tokenizer is None else super().words()
