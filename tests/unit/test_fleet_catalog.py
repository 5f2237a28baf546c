import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import FailedPrecondition, ModelNotFound, ModelNotReady
from server.fleet.catalog import RemoteCatalog, announcement
from server.fleet.plain import from_plain, to_plain
from server.spec import (
    BatchPolicy,
    InstanceGroup,
    ModelConfig,
    ModelSpec,
    QueuePolicy,
    TensorSpec,
    VersionPolicy,
    Warmup,
    WarmupInput,
)

names = st.text(min_size=1, max_size=8)
sizes = st.integers(0, 2**31)
seconds = st.floats(0, 1e6)
tensors = st.builds(
    TensorSpec, names, names, st.tuples(sizes, sizes), st.booleans(), st.tuples(names), st.none() | st.tuples(sizes)
)
policies = st.builds(QueuePolicy, sizes, st.none() | seconds, st.booleans(), st.sampled_from(["reject", "delay"]))
batching = st.builds(
    BatchPolicy, st.booleans(), st.tuples(sizes), seconds, st.booleans(), sizes, sizes, policies,
    st.dictionaries(sizes, policies, max_size=2),
)  # fmt: skip
warmups = st.builds(
    Warmup, names, sizes, sizes, st.dictionaries(names, st.builds(WarmupInput, names, st.tuples(sizes)), max_size=2)
)
configs = st.builds(
    ModelConfig,
    name=names,
    max_batch_size=st.none() | sizes,
    inputs=st.tuples(tensors),
    batching=batching,
    version_policy=st.builds(VersionPolicy, st.sampled_from(["latest", "all", "specific"]), sizes, st.tuples(sizes)),
    instance_groups=st.tuples(
        st.builds(InstanceGroup, sizes, st.sampled_from(["auto", "cpu", "gpu"]), st.tuples(sizes))
    ),
    warmups=st.tuples(warmups),
    parameters=st.dictionaries(names, names, max_size=2),
)
specs = st.builds(ModelSpec, names, names, names, st.tuples(tensors, tensors), st.tuples(tensors), sizes, configs)


def spec(name="churn", version="1", **config):
    return ModelSpec(name, version, "onnx", (), (), 8, ModelConfig(name, **config))


def served(*models):
    return {(model.name, model.version): announcement(model, "CPUExecutionProvider") for model in models}


@given(specs)
def test_a_spec_survives_the_way_through_json(whole):
    assert from_plain(ModelSpec, json.loads(json.dumps(to_plain(whole)))) == whole


@pytest.mark.parametrize(
    "change",
    [{"name": 3}, {"max_batch_size": "8"}, {"inputs": [{}]}, {"surprise": 1}, {"config": None}],
)
def test_what_another_version_wrote_is_refused_not_guessed_at(change):
    plain = {**to_plain(spec()), **change}

    with pytest.raises((ValueError, TypeError)):
        from_plain(ModelSpec, plain)


def test_the_newest_version_answers_for_no_version_and_numbers_are_compared_as_numbers():
    catalog = RemoteCatalog(lambda: announced)
    announced = served(spec(version="9"), spec(version="10"))

    assert catalog.find("churn", "").spec.version == "10"
    assert catalog.find("churn", "9").spec.version == "9"
    assert catalog.versions("churn") == ["9", "10"]
    assert catalog.ready()
    assert [(entry.name, entry.version) for entry in catalog.index()] == [("churn", "10"), ("churn", "9")]


def test_a_model_keeps_its_object_while_its_announcement_stays_the_same():
    announced = served(spec())
    catalog = RemoteCatalog(lambda: announced)
    before = catalog.find("churn", "1")

    announced = dict(announced)
    same = catalog.find("churn", "1")
    announced = served(spec(response_cache=True))
    other = catalog.find("churn", "1")

    assert same is before
    assert other is not before
    assert other.spec.config.response_cache


def test_a_model_that_has_gone_is_not_ready_and_one_never_seen_is_not_found():
    announced = served(spec())
    catalog = RemoteCatalog(lambda: announced)
    catalog.find("churn", "1")

    announced = {}

    assert not catalog.ready()
    with pytest.raises(ModelNotReady):
        catalog.find("churn", "")
    with pytest.raises(ModelNotFound):
        catalog.find("nobody", "")


def test_an_unreadable_announcement_hides_that_version_alone():
    catalog = RemoteCatalog(lambda: {**served(spec()), ("odd", "1"): b"\xff", ("older", "1"): b'{"spec": {}}'})

    assert catalog.find("churn", "").spec.version == "1"
    with pytest.raises(ModelNotFound):
        catalog.find("odd", "1")


async def test_a_frontend_refuses_to_load_for_its_workers():
    catalog = RemoteCatalog(dict)

    with pytest.raises(FailedPrecondition):
        await catalog.load("churn", {})
    with pytest.raises(FailedPrecondition):
        await catalog.unload("churn")
