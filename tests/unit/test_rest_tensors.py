import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest
from server.messages import NUMPY_NAMES
from server.pb import open_inference_pb2 as oip
from server.rest.tensors import parse_request, render_response, wanted_as_binary
from server.rest.view import as_json


def body(**document):
    return json.dumps(document).encode()


def image(**changes):
    return {"name": "image", "datatype": "UINT8", "shape": [1, 2], "data": [[1, 2]], **changes}


def test_nested_and_flat_json_give_the_same_raw_bytes():
    nested = parse_request(body(id="a", inputs=[image()]), None, "mnist", "1")
    flat = parse_request(body(id="a", inputs=[image(data=[1, 2])]), None, "mnist", "1")

    assert nested == flat
    assert (nested.model_name, nested.model_version, nested.id) == ("mnist", "1", "a")
    assert list(nested.raw_input_contents) == [b"\x01\x02"]


def test_binary_tensors_are_taken_in_order():
    inputs = [image(parameters={"binary_data_size": size}) for size in (2, 3)]
    head = body(inputs=inputs)

    request = parse_request(head + b"abcde", len(head), "m", "")

    assert list(request.raw_input_contents) == [b"ab", b"cde"]


@given(st.sampled_from(sorted(set(NUMPY_NAMES) - {"FP16"})), st.lists(st.integers(0, 1), min_size=1, max_size=20))
def test_what_goes_in_as_json_comes_out_as_json(datatype, numbers):
    tensor = {"name": "x", "datatype": datatype, "shape": [len(numbers)], "data": numbers}
    request = parse_request(body(inputs=[tensor]), None, "m", "")
    response = oip.ModelInferResponse(model_name="m", model_version="1")
    response.outputs.add(name="x", datatype=datatype, shape=[len(numbers)])
    response.raw_output_contents.append(request.raw_input_contents[0])

    rendered, length = render_response(response, binary=set())

    assert length is None
    assert json.loads(rendered)["outputs"][0]["data"] == numbers


@given(st.lists(st.text(), max_size=5))
def test_strings_survive_the_way_there_and_back(texts):
    tensor = {"name": "t", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    try:
        request = parse_request(body(inputs=[tensor]), None, "m", "")
    except InvalidRequest:
        assert any(0xD800 <= ord(char) <= 0xDFFF for text in texts for char in text)
        return
    response = oip.ModelInferResponse()
    response.outputs.add(name="t", datatype="BYTES", shape=[len(texts)])
    response.raw_output_contents.append(request.raw_input_contents[0])

    assert json.loads(render_response(response, binary=set())[0])["outputs"][0]["data"] == texts


def test_outputs_come_as_binary_when_asked_for():
    response = oip.ModelInferResponse(model_name="m", id="7")
    for name in ("a", "b"):
        response.outputs.add(name=name, datatype="FP32", shape=[1])
        response.raw_output_contents.append(np.float32(0.5).tobytes())

    rendered, length = render_response(response, binary={"b"})

    document = json.loads(rendered[:length])
    assert document["id"] == "7"
    assert document["outputs"][0]["data"] == [0.5]
    assert document["outputs"][1]["parameters"] == {"binary_data_size": 4}
    assert rendered[length:] == np.float32(0.5).tobytes()


def test_binary_wishes_are_read_from_parameters():
    everything = parse_request(body(parameters={"binary_data_output": True}, inputs=[]), None, "m", "")
    one = parse_request(
        body(inputs=[], outputs=[{"name": "a", "parameters": {"binary_data": True}}, {"name": "b"}]), None, "m", ""
    )

    assert wanted_as_binary(everything) is None
    assert wanted_as_binary(one) == {"a"}


@pytest.mark.parametrize(
    ("raw", "length", "words"),
    [
        (b"{", None, "expected JSON"),
        (b"[" * 100_000, None, "expected JSON"),
        (b"[1]", None, "expected a JSON object, got list"),
        (body(inputs=3), None, "inputs: expected a list of objects"),
        (body(inputs=[image(shape="x")]), None, "image: expected shape to be a list of integers"),
        (body(inputs=[image(shape=[True])]), None, "image: expected shape to be a list of integers"),
        (body(inputs=[image(data=[300, 1])]), None, "image: a value does not fit UINT8"),
        (body(inputs=[image(data=[-1, 1])]), None, "image: a value does not fit UINT8"),
        (body(inputs=[image(data=[1.5, 1])]), None, "image: expected integers, got something else"),
        (body(inputs=[image(data=["1"])]), None, "image: expected integers, got something else"),
        (body(inputs=[image(datatype="BYTES", data=[1])]), None, "image: expected strings"),
        (body(inputs=[image(datatype="FP99")]), None, "image: expected a datatype that JSON can carry, got 'FP99'"),
        (body(inputs=[image(data=None)]), None, "image: expected data to be a list"),
        (body(inputs=[image(parameters={"binary_data_size": 9})]), None, "does not fit, 0 bytes are left"),
        (body(inputs=[]) + b"xx", len(body(inputs=[])), "2 bytes are left behind"),
        (body(parameters={"p": [1]}), None, "parameters.p: expected a boolean"),
        (body(id=7), None, "id: expected a string"),
    ],
)
def test_a_bad_body_is_refused_in_one_sentence(raw, length, words):
    with pytest.raises(InvalidRequest) as refusal:
        parse_request(raw, length, "m", "")

    assert words in str(refusal.value)


def test_our_messages_become_json_with_numbers_as_numbers_and_zeros_shown():
    statistics = oip.ModelStatisticsResponse()
    model = statistics.model_stats.add(name="m", version="1", inference_count=2**40)
    model.inference_stats.success.count = 3

    shown = as_json(statistics)["model_stats"][0]

    assert shown["inference_count"] == 2**40
    assert shown["execution_count"] == 0
    assert shown["inference_stats"]["success"] == {"count": 3, "ns": 0}
    assert "queue" not in shown["inference_stats"]
