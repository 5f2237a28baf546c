"""What a frontend knows of the engine's models is what the engine would say itself."""

import json
import logging
from types import SimpleNamespace

import pytest

from server import log
from server.catalog import IndexEntry, missing
from server.counts import Durations, RequestCounts
from server.errors import ModelNotFound, ModelNotReady
from server.link.mirror import GONE, Announcer, MirroredCatalog
from server.link.tally import add_up, decode_counts, encode_counts
from server.wire.lifecycle import Lifecycle
from tests.wire import spec


def model(version, datatype="FP32"):
    made = spec("m", [("x", datatype, (-1, 1))], [("y", "FP32", (-1, 1))], version=version)
    return SimpleNamespace(spec=made, provider="CPUExecutionProvider")


class Engine:
    """A catalog of one model's versions, and what follows from it elsewhere."""

    def __init__(self):
        self.models = {"1": model("1")}
        self.entries = [IndexEntry("m", "1", "READY"), IndexEntry("broken", "3", "UNAVAILABLE", "no such file")]
        self.lifecycle = Lifecycle()
        self.announcer = Announcer(self, self.lifecycle)
        self.mirror = MirroredCatalog(Lifecycle())
        self.tell()

    def index(self):
        return self.entries

    def ready(self):
        return True

    def find(self, name, version):
        if name != "m" or version not in self.models:
            raise missing(name, version, None, [])
        return self.models[version]

    def serve(self, **versions):
        self.models = {version[1:]: model for version, model in versions.items()}
        self.entries = [IndexEntry("m", version, "READY") for version in self.models]
        self.tell()

    def tell(self):
        self.mirror.apply(json.loads(json.dumps(self.announcer.state())))


@pytest.fixture
def engine():
    logger = logging.getLogger("sluice")
    level = logger.level
    log.set_level("info")
    yield Engine()
    logger.setLevel(level)


def test_a_model_is_found_as_the_engine_describes_it(engine):
    engine.serve(v1=model("1"), v10=model("10"), v9=model("9"))

    assert engine.mirror.find("m", "9").spec == engine.models["9"].spec
    assert engine.mirror.find("m", "").spec.version == "10"
    assert engine.mirror.find("m", "").provider == "CPUExecutionProvider"
    assert engine.mirror.versions("m") == ["1", "9", "10"]
    assert engine.mirror.index() == engine.entries


def test_a_model_stays_the_same_object_until_it_is_loaded_again_even_as_the_same_version(engine):
    first = engine.mirror.find("m", "1")
    number = engine.mirror.number_of(first.spec)
    engine.tell()
    same = engine.mirror.find("m", "1")
    engine.serve(v1=model("1"))
    again = engine.mirror.find("m", "1")

    assert same is first
    assert again is not first
    assert engine.announcer.spec(number) is None
    assert engine.mirror.number_of(first.spec) == GONE
    assert engine.announcer.spec(engine.mirror.number_of(again.spec)) is engine.models["1"].spec
    assert engine.mirror.number_of(None) == 0


def test_what_is_missing_is_missing_in_the_engines_own_words(engine):
    with pytest.raises(ModelNotFound, match="'x': this server has no such model"):
        engine.mirror.find("x", "")
    with pytest.raises(ModelNotReady, match="'broken' is not in service: no such file"):
        engine.mirror.find("broken", "")
    with pytest.raises(ModelNotFound, match=r"'m': expected a version in service \(1\), got '7'"):
        engine.mirror.find("m", "7")
    with pytest.raises(ModelNotFound):
        engine.mirror.versions("x")


def test_readiness_draining_and_the_log_level_follow(engine):
    before = engine.mirror.ready(), engine.mirror._lifecycle.ready
    engine.lifecycle.set(ready=True)
    engine.tell()
    serving = engine.mirror.ready(), engine.mirror._lifecycle.ready
    engine.lifecycle.set(draining=True)
    log.set_level("error")
    state = engine.announcer.state()
    log.set_level("debug")
    engine.mirror.apply(state)

    assert (before, serving) == ((False, False), (True, True))
    assert engine.mirror._lifecycle.draining
    assert log.get_level() == "error"


def counted(*rpcs):
    counts = RequestCounts()
    for code, seconds in rpcs:
        if counts.count("m", "1", "ModelInfer", code, seconds):
            counts.exemplify(("m", "1", "ModelInfer"), seconds, f"{code} {seconds}", "")
    return counts.snapshot()


def test_counts_of_several_processes_add_up_and_survive_the_way():
    parts = [counted(("OK", 0.002), ("OK", 20.0)), counted(("OK", 0.002), ("INTERNAL", 0.2)), ({}, {})]
    plain = [json.loads(json.dumps(encode_counts(part))) for part in parts]
    codes, seconds = add_up(decode_counts(part) for part in plain)
    durations = seconds["m", "1", "ModelInfer"]
    whole = counted(("OK", 0.002), ("OK", 20.0), ("OK", 0.002), ("INTERNAL", 0.2))

    assert codes == whole[0]
    assert isinstance(durations, Durations)
    assert durations.counts == whole[1]["m", "1", "ModelInfer"].counts
    assert durations.sum == pytest.approx(20.204)
    assert [example.request_id for example in durations.examples if example] == ["OK 0.002", "INTERNAL 0.2", "OK 20.0"]
