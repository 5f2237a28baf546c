"""The sentiment model as one ONNX graph, written by hand in ONNX's text syntax.

torch's exporter knows neither strings nor `sequence_lens`, and both are the point here: the graph takes raw text, and
no row's answer depends on the padding that a longer neighbour brings. The steps mirror `sentiment.Network` and
`phrases`; the parity check compares the two on held-out reviews before anything is published.
"""

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from trainer import graphs
from trainer.blend import Blend
from trainer.phrases import KEY_BASE, Votes
from trainer.reading import FIRST_WORD, PAD, PATTERN, START, TOKENS_TEXT, UNKNOWN

GRAPH = f"""
sentiment (string[{graphs.BATCH}, 1] text) => (float[{graphs.BATCH}, 2] probabilities)
<string[{graphs.BATCH}, read] read_words, int64[{graphs.BATCH}, keys] sorted_keys,
 int64[1] flat = {{-1}}, int64[1] from_0 = {{0}}, int64[1] from_1 = {{1}}, int64[1] from_2 = {{2}},
 int64[1] to_last = {{-1}}, int64[1] end = {{{2**63 - 1}}}, int64[1] axis_1 = {{1}}, int64[1] one = {{1}},
 int64[1] start_id = {{{START}}}, int64 unknown = {{{UNKNOWN}}}, int64 pad = {{{PAD}}},
 int64 base = {{{KEY_BASE}}}, int64 base_squared = {{{KEY_BASE**2}}},
 float nothing = {{0.0}}, float below_all = {{-2.0}}>
{{
    {TOKENS_TEXT}
    read_words = Slice (words, from_0, limit, axis_1)
    word_ids = ai.onnx.ml.LabelEncoder (read_words)
    rows = Shape <start = 0, end = 1> (text)
    column = Concat <axis = 0> (rows, one)
    starts = Expand (start_id, column)
    ids = Concat <axis = 1> (starts, word_ids)

    second_on = Slice (ids, from_1, end, axis_1)
    all_but_last = Slice (ids, from_0, to_last, axis_1)
    high_2 = Mul (second_on, base)
    pairs = Add (all_but_last, high_2)
    third_on = Slice (ids, from_2, end, axis_1)
    first_pairs = Slice (pairs, from_0, to_last, axis_1)
    high_3 = Mul (third_on, base_squared)
    triples = Add (first_pairs, high_3)
    keys = Concat <axis = 1> (ids, pairs, triples)
    key_count = Shape <start = 1, end = 2> (keys)
    sorted_keys, sorted_places = TopK <axis = 1, largest = 0, sorted = 1> (keys, key_count)
    key_votes = ai.onnx.ml.LabelEncoder (sorted_keys)
    later_keys = Slice (sorted_keys, from_1, end, axis_1)
    earlier_keys = Slice (sorted_keys, from_0, to_last, axis_1)
    repeated = Equal (later_keys, earlier_keys)
    later_votes = Slice (key_votes, from_1, end, axis_1)
    new_votes = Where (repeated, nothing, later_votes)
    first_vote = Slice (key_votes, from_0, from_1, axis_1)
    all_votes = Concat <axis = 1> (first_vote, new_votes)
    vote = ReduceSum <keepdims = 1> (all_votes, axis_1)

    is_frequent = Less (ids, frequent)
    vector_ids = Where (is_frequent, ids, unknown)
    is_pad = Equal (ids, pad)
    is_word = Not (is_pad)
    mask_2d = Cast <to = 1> (is_word)
    mask = Unsqueeze (mask_2d, axis_1)
    small_vectors = Gather (vector_table, vector_ids)
    vectors_unscaled = Cast <to = 1> (small_vectors)
    vectors = Mul (vectors_unscaled, vector_scale)
    vectors_first = Transpose <perm = [0, 2, 1]> (vectors)
    vectors_masked = Mul (vectors_first, mask)
    convolved = Conv <pads = [1, 1]> (vectors_masked, convolution_weight, convolution_bias)
    positive = Relu (convolved)
    features = Mul (positive, mask)
    pooled = MaxPool <kernel_shape = [@pool], strides = [@pool], pads = [0, @last]> (features)
    steps = Transpose <perm = [2, 0, 1]> (pooled)
    step_mask_padded = MaxPool <kernel_shape = [@pool], strides = [@pool], pads = [0, @last]> (mask)
    lengths_float = ReduceSum <keepdims = 0> (step_mask_padded, axes_1_2)
    lengths = Cast <to = 6> (lengths_float)
    states = LSTM <direction = "bidirectional", hidden_size = @state>
        (steps, lstm_input, lstm_state, lstm_bias, lengths)
    states_by_row = Transpose <perm = [2, 1, 3, 0]> (states)
    present = Cast <to = 9> (step_mask_padded)
    present_4d = Unsqueeze (present, axis_1)
    states_present = Where (present_4d, states_by_row, below_all)
    largest = ReduceMax <keepdims = 0> (states_present, axis_3)
    largest_flat = Flatten <axis = 1> (largest)
    reading = MatMul (largest_flat, out_weight)

    trusted_reading = Mul (reading, reading_trust)
    trusted_vote = Mul (vote, vote_trust)
    evidence = Add (trusted_reading, trusted_vote)
    logit = Add (evidence, bias)
    chance_positive = Sigmoid (logit)
    chance_negative_logit = Neg (logit)
    chance_negative = Sigmoid (chance_negative_logit)
    probabilities = Concat <axis = 1> (chance_negative, chance_positive)
}}"""


def round_vectors(network: nn.Module) -> tuple[NDArray[np.int8], np.float32]:
    """Store word vectors as int8: rounds them in the network, too, so that both compute the same.

    Returns:
        The table [words, vector] and the scale that turns it back.
    """
    table: torch.Tensor = network.vectors.weight.data  # type: ignore[union-attr, assignment]
    scale = float(np.float32(table.abs().max().item() / 127))
    small = (table / scale).round().to(torch.int8)
    table.copy_(small.float() * scale)
    return small.numpy(), np.float32(scale)


def to_onnx(network: Any, votes: Votes, blend: Blend, vocabulary: list[str]) -> onnx.ModelProto:  # noqa: ANN401
    """Put what was learned into the graph."""
    settings = network.settings
    text = GRAPH.replace("@pool", str(settings.pool)).replace("@last", str(settings.pool - 1))
    model = graphs.parse(text.replace("@state", str(settings.state)))
    graphs.attributes(model, "words", tokenexp=PATTERN)
    graphs.attributes(
        model,
        "word_ids",
        keys_strings=["", *vocabulary],
        values_int64s=[PAD, *range(FIRST_WORD, FIRST_WORD + len(vocabulary))],
        default_int64=UNKNOWN,
    )
    graphs.attributes(
        model,
        "key_votes",
        keys_int64s=votes.keys.tolist(),
        values_floats=votes.weights.tolist(),
        default_float=0.0,
    )
    table, scale = round_vectors(network)
    reading_trust, vote_trust = (np.float32(weight) for weight in blend.weights)
    bias = blend.bias + reading_trust * network.out.bias.item() + vote_trust * votes.bias
    graphs.constants(
        model,
        {
            "limit": np.array([settings.tokens]),
            "frequent": np.array(settings.words),
            "axes_1_2": np.array([1, 2]),
            "axis_3": np.array([3]),
            "vector_table": table,
            "vector_scale": scale,
            "convolution_weight": network.convolution.weight.detach().numpy(),
            "convolution_bias": network.convolution.bias.detach().numpy(),
            "out_weight": network.out.weight.detach().numpy().T,
            "reading_trust": reading_trust,
            "vote_trust": vote_trust,
            "bias": np.float32(bias),
            **lstm_weights(network.lstm),
        },
    )
    return graphs.finish(model, "sentiment")


def lstm_weights(lstm: nn.LSTM) -> dict[str, NDArray[np.float32]]:
    """Gates: torch's input, forget, cell, output -> ONNX's input, output, forget, cell; two directions stacked."""

    def gates(name: str) -> NDArray[np.float32]:
        return np.stack([_reorder(getattr(lstm, f"{name}_l0{way}").detach().numpy()) for way in ("", "_reverse")])

    return {
        "lstm_input": gates("weight_ih"),
        "lstm_state": gates("weight_hh"),
        "lstm_bias": np.concatenate([gates("bias_ih"), gates("bias_hh")], axis=1),
    }


def _reorder(stacked: NDArray[np.float32]) -> NDArray[np.float32]:
    first, forget, cell, output = np.split(stacked, 4)
    return np.concatenate([first, output, forget, cell])
