"""A WordPiece vocabulary learnt from text, for a model that starts from nothing."""

from collections.abc import Sequence

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.trainers import WordPieceTrainer
from transformers import BertTokenizer

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learn_vocabulary(texts: Sequence[str], size: int, length: int) -> BertTokenizer:
    """Learn pieces of lower-case words, at most `size` unless the text has more characters than that.

    The same text gives the same vocabulary every time. `length` is the most tokens the model will take.
    """
    learner = Tokenizer(WordPiece(unk_token="[UNK]"))
    learner.normalizer = normalizers.BertNormalizer(lowercase=True)
    learner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = sorted(set().union(*map(learner.normalizer.normalize_str, texts)) - {" "})
    # The trainer numbers characters inside words in the order of a hash map, which then decides between
    # equally frequent pieces, except for those it is given.
    given = [*_SPECIAL, *characters, *(f"##{character}" for character in characters)]
    learner.train_from_iterator(
        texts, WordPieceTrainer(vocab_size=size, special_tokens=given, show_progress=False)
    )
    return BertTokenizer(vocab=learner.get_vocab(), do_lower_case=True, model_max_length=length)
