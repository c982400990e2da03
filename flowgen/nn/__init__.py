"""What velocity networks are built of, and the networks that need nothing else."""

from flowgen.nn.attention import CrossAttention, SelfAttention
from flowgen.nn.embedding import ConditionEmbedding, Embedded, TimeEmbedding
from flowgen.nn.exchange import ExchangeTransformer
from flowgen.nn.mlp import MLP
from flowgen.nn.multistream import StreamTransformer
from flowgen.nn.positions import CommonPositions, Positions
from flowgen.nn.transformer import Transformer

__all__ = [
    "MLP",
    "CommonPositions",
    "ConditionEmbedding",
    "CrossAttention",
    "Embedded",
    "ExchangeTransformer",
    "Positions",
    "SelfAttention",
    "StreamTransformer",
    "TimeEmbedding",
    "Transformer",
]
