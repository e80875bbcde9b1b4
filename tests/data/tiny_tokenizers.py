"""Tiny tokenizers that differ in special tokens, spaces and padding."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [
    "who",
    "sat",
    "where",
    "the",
    "big",
    "cat",
    "on",
    "a",
    "mat",
    "in",
    "paris",
    "?",
    ".",
    ",",
    "##s",
    "##e",
]


def bert(**options: str) -> BertTokenizerFast:
    """WordPiece in lower case; cls in front."""
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(SPECIAL + WORDS)}, **options)


def roberta() -> PreTrainedTokenizerFast:
    """Byte-level, spaces belong to the next word; cls in front, two separators between texts."""
    core = _bytes()
    core.post_processor = processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2), add_prefix_space=False)
    return _fast(core, cls_token="[CLS]", sep_token="[SEP]")


def xlnet() -> PreTrainedTokenizerFast:
    """Spaces are part of the offsets of words; cls at the end, padding on the left."""
    core = _bytes()
    core.post_processor = processors.TemplateProcessing(
        single="$A [SEP] [CLS]",
        pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2",
        special_tokens=[("[SEP]", 3), ("[CLS]", 2)],
    )
    return _fast(core, cls_token="[CLS]", sep_token="[SEP]", padding_side="left")


def llama() -> PreTrainedTokenizerFast:
    """Byte-level; bos instead of cls in front, also used as padding on the left."""
    core = _bytes()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 2)]
    )
    return _fast(core, bos_token="[CLS]", pad_token="[CLS]", padding_side="left")


def gpt(padding_side: str = "right") -> PreTrainedTokenizerFast:
    """Byte-level without special tokens except padding."""
    return _fast(_bytes(), padding_side=padding_side)


KINDS = {
    "bert": bert,
    "bert, padded on the left": lambda: bert(padding_side="left"),
    "bert, cut on the left": lambda: bert(truncation_side="left"),
    "roberta": roberta,
    "xlnet": xlnet,
    "llama": llama,
    "gpt": gpt,
    "gpt, padded on the left": lambda: gpt("left"),
}


def _bytes() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    for word in ("the", "cat", "mat"):
        for length in range(2, len(word) + 1):
            vocabulary.setdefault("Ġ" + word[: length - 1], len(vocabulary))
        vocabulary.setdefault("Ġ" + word, len(vocabulary))
    merges = [("Ġ" + word[:i], word[i]) for word in ("the", "cat", "mat") for i in range(len(word))]
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return core


def _fast(core: Tokenizer, **options: object) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, **{"pad_token": "[PAD]"} | options)
