import asyncio
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import (
    FailedPrecondition,
    InvalidRequest,
    ModelLoadFailed,
    ModelNotFound,
    ModelNotReady,
    ShuttingDown,
)
from server.store import StoreError
from tests.management import Bench, entered, reason, table, until


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "store")


async def test_every_model_of_the_store_serves_after_start(bench):
    bench.put("a", 1, 2, 10)
    bench.put("b", 2, 10, config="version_policy { all {} }")

    repository = await bench.started("none")

    assert repository.find("a", "").version == "10"
    assert repository.find("a", "10") is repository.find("a", "")
    assert repository.versions("b") == ["2", "10"]
    assert repository.find("b", "").version == "10"
    assert repository.scheduler("b", "2") is repository.find("b", "2").scheduler
    assert repository.ready()
    assert table(repository) == {("a", "10"): "READY", ("b", "2"): "READY", ("b", "10"): "READY"}


async def test_nobody_is_ready_before_the_start(bench):
    bench.put("a", 1)

    assert not bench.repository("none").ready()


async def test_a_store_that_is_empty_for_ever_is_refused_and_one_that_may_fill_is_not(bench):
    with pytest.raises(StoreError, match="expected at least one model"):
        await bench.started("none")

    assert (await bench.started("poll")).ready()
    assert (await bench.started("explicit")).ready()


async def test_explicit_control_loads_what_it_is_told_to(bench):
    bench.put("a", 1)
    bench.put("b", 1)

    repository = await bench.started("explicit", startup=("b",))

    assert table(repository) == {("a", ""): "UNAVAILABLE", ("b", "1"): "READY"}
    assert repository.ready()
    with pytest.raises(ModelNotReady, match="model 'a' is not in service: it has not been loaded"):
        repository.find("a", "")
    with pytest.raises(StoreError, match="expected model 'c' to load at start, the models are: a, b"):
        await bench.started("explicit", startup=("c",))


@pytest.mark.parametrize("strict", [True, False])
async def test_a_model_that_fails_at_start_costs_the_others_nothing(bench, strict):
    bench.put("bad", 1)
    bench.put("good", 1)
    bench.ledger.break_("bad", 1, "model.onnx: not a model")

    repository = await bench.started("none", strict_readiness=strict)

    assert repository.find("good", "").version == "1"
    assert repository.ready() is not strict
    assert reason(repository, "bad", "1") == "model.onnx: not a model"
    assert repository.load_failures() == {"bad": 1}
    with pytest.raises(ModelNotReady, match=r"model 'bad' is not in service: model.onnx: not a model"):
        repository.find("bad", "")


async def test_a_broken_config_is_the_whole_models_failure(bench):
    bench.put("m", 1, config="max_batch_size: many")

    repository = await bench.started("none")

    assert reason(repository, "m", "").startswith("m/config.pbtxt line 1: max_batch_size: expected a whole number")
    assert ("failed", "m", "") in bench.watcher.events

    bench.put("m", config="max_batch_size: 3")
    repository = await bench.started("none")
    assert table(repository) == {("m", "1"): "READY"}


async def test_the_old_version_serves_until_the_new_one_is_ready_and_finishes_what_it_has(bench):
    bench.put("m", 1)
    repository = await bench.started()
    old = repository.find("m", "").scheduler
    assert old.submit() == "1"
    gate = bench.ledger.gate("m", 2)
    bench.put("m", 2)

    loading = asyncio.create_task(repository.load("m", {}))
    await entered(bench.ledger.entered)
    assert table(repository) == {("m", "1"): "READY", ("m", "2"): "LOADING"}
    assert repository.find("m", "").version == "1"
    with pytest.raises(ModelNotReady, match="model 'm' version 2 is LOADING"):
        repository.find("m", "2")
    assert old.submit() == "1"

    gate.set()
    await loading
    assert repository.find("m", "").version == "2"
    await until(lambda: table(repository)["m", "1"] == "UNLOADING")
    with pytest.raises(ModelNotReady):
        old.submit()
    assert not bench.ledger.instances[0].closed

    old.finish()
    assert not bench.ledger.instances[0].closed
    old.finish()
    await repository.settled()
    assert bench.ledger.instances[0].closed
    assert table(repository) == {("m", "1"): "UNAVAILABLE", ("m", "2"): "READY"}
    assert reason(repository, "m", "1") == "unloaded"
    assert bench.watcher.events == [("loaded", "m", "1"), ("loaded", "m", "2"), ("unloaded", "m", "1")]


async def test_a_version_that_does_not_drain_in_time_is_closed_all_the_same(bench):
    bench.put("m", 1)
    repository = await bench.started(drain_timeout=0.0)
    repository.find("m", "").scheduler.submit()
    bench.put("m", 2)

    await repository.load("m", {})
    await repository.settled()

    assert bench.ledger.instances[0].closed


async def test_a_failed_load_leaves_the_old_version_serving(bench):
    bench.put("m", 1)
    repository = await bench.started()
    before = repository.find("m", "")
    bench.put("m", 2)
    bench.ledger.break_("m", 2, "golden vectors do not match")

    with pytest.raises(ModelLoadFailed) as caught:
        await repository.load("m", {})
    await repository.settled()

    assert str(caught.value) == "model 'm' version 2: golden vectors do not match; version 1 goes on serving"
    assert repository.find("m", "") is before
    assert not bench.ledger.instances[0].closed
    assert repository.ready()
    assert table(repository) == {("m", "1"): "READY", ("m", "2"): "UNAVAILABLE"}


async def test_a_loader_that_breaks_is_one_versions_failure_without_details(bench):
    bench.put("m", 1)
    bench.ledger.broken["m", "1"] = RuntimeError("secret path /root")

    repository = await bench.started("none")

    assert "secret" not in reason(repository, "m", "1")
    assert reason(repository, "m", "1").startswith("the loader broke")


async def test_sessions_are_closed_when_no_queue_can_be_put_before_them(bench):
    bench.put("m", 1)
    repository = bench.repository("none")

    def refuse(_):
        raise ModelLoadFailed("no queue")

    repository._loading._make_scheduler = refuse
    await repository.start()

    assert bench.ledger.open_instances() == 0
    assert reason(repository, "m", "1") == "no queue"


async def test_loading_what_serves_already_does_nothing(bench):
    bench.put("m", 1)
    repository = await bench.started()
    before = repository.find("m", "")

    await repository.load("m", {})

    assert repository.find("m", "") is before
    assert bench.ledger.loads == [("m", "1")]


async def test_files_changed_in_place_are_loaded_anew_beside_the_old(bench):
    bench.put("m", 1)
    repository = await bench.started()
    before = repository.find("m", "")
    (bench.root / "m" / "1" / "model.onnx").write_bytes(b"another model")

    await repository.load("m", {})
    await repository.settled()

    assert repository.find("m", "1") is not before
    assert table(repository) == {("m", "1"): "READY"}
    assert [instance.closed for instance in bench.ledger.instances] == [True, False]


async def test_a_failed_reload_of_the_same_version_is_seen_and_costs_nothing(bench):
    bench.put("m", 1)
    repository = await bench.started()
    before = repository.find("m", "")
    (bench.root / "m" / "1" / "model.onnx").write_bytes(b"damaged")
    bench.ledger.break_("m", 1, "damaged")

    with pytest.raises(ModelLoadFailed, match="model 'm' version 1: damaged; version 1 goes on serving"):
        await repository.load("m", {})

    assert repository.find("m", "") is before
    assert (table(repository)["m", "1"], reason(repository, "m", "1")) == ("READY", "reload failed: damaged")


async def test_of_several_reloaded_versions_each_stands_for_itself(bench):
    bench.put("m", 1, 2, config="version_policy { all {} }")
    repository = await bench.started()
    kept, replaced = repository.find("m", "1"), repository.find("m", "2")
    bench.ledger.break_("m", 1)
    bench.put("m", config="version_policy { all {} } max_batch_size: 4")

    with pytest.raises(ModelLoadFailed, match="model 'm' version 1: it is broken; version 1, 2 goes on serving"):
        await repository.load("m", {})
    await repository.settled()

    assert repository.find("m", "1") is kept
    assert repository.find("m", "2") is not replaced
    assert [instance.closed for instance in bench.ledger.instances].count(True) == 1


async def test_an_older_version_steps_in_when_the_latest_fails_at_start(bench):
    bench.put("m", 1, 2, 3)
    bench.ledger.break_("m", 3)
    bench.ledger.break_("m", 2)

    repository = await bench.started("none")

    assert repository.find("m", "").version == "1"
    assert repository.ready()
    assert table(repository) == {("m", "1"): "READY", ("m", "2"): "UNAVAILABLE", ("m", "3"): "UNAVAILABLE"}


async def test_named_versions_have_no_stand_in(bench):
    bench.put("m", 1, 2, config="version_policy { specific { versions: [2, 7] } }")
    bench.ledger.break_("m", 2)

    repository = await bench.started("none")

    assert repository.versions("m") == []
    assert bench.ledger.loads == [("m", "2")]
    assert reason(repository, "m", "7") == "version_policy names it, the store has no such version"


@pytest.mark.parametrize(
    ("config", "files", "wanted"),
    [
        ("", (), "expected a version directory, such as 1, with model.onnx in it; there is none"),
        ("", ("5",), "m/5: expected a file 'model.onnx', there is none"),
        ("version_policy { specific { versions: 9 } }", (), "version_policy names versions 9, the store has 1"),
    ],
)
async def test_a_model_with_nothing_to_load_says_what_was_expected(bench, config, files, wanted):
    bench.put("m", *((1,) if config else ()), config=config)
    for name in files:
        (bench.root / "m" / name).mkdir()

    repository = await bench.started("none")

    assert reason(repository, "m", "") == wanted


async def test_an_override_configures_until_the_next_load_without_one(bench):
    bench.put("m", 1, 2, config="max_batch_size: 4")
    repository = await bench.started()

    await repository.load("m", {"config": '{"max_batch_size": 8, "version_policy": {"all": {}}}'})
    assert repository.versions("m") == ["1", "2"]
    assert repository.find("m", "2").spec.max_batch_size == 8

    await repository.load("m", {"config": '{"max_batch_size": 8, "version_policy": {"all": {}}}'})
    assert len(bench.ledger.loads) == 3

    await repository.load("m", {})
    assert repository.versions("m") == ["2"]
    assert repository.find("m", "").spec.max_batch_size == 4


@pytest.mark.parametrize(
    ("parameters", "error", "text"),
    [
        ({"config": "{"}, ModelLoadFailed, "config of the load request for 'm': expected JSON"),
        ({"config": 7}, InvalidRequest, "load parameter config: expected a string of JSON, got int"),
        ({"file:1/model.onnx": b""}, FailedPrecondition, "`file:` parameters are not taken"),
        ({"config": "{}", "file:../../x": b""}, FailedPrecondition, "`file:` parameters are not taken"),
        ({"unknown": True}, InvalidRequest, "expected the load parameter config, got 'unknown'"),
    ],
)
async def test_load_parameters_that_are_not_taken(bench, parameters, error, text):
    bench.put("m", 1)
    repository = await bench.started()

    with pytest.raises(error) as caught:
        await repository.load("m", parameters)

    assert text in str(caught.value)
    assert repository.find("m", "").version == "1"


@pytest.mark.parametrize("control", ["none", "poll"])
async def test_models_change_on_request_only_under_explicit_control(bench, control):
    bench.put("m", 1)
    repository = await bench.started(control)

    for change in (repository.load("m", {}), repository.unload("m")):
        with pytest.raises(FailedPrecondition, match=f"--model-control explicit.* this one runs with {control}"):
            await change
    await repository.close()


async def test_unloading_waits_for_the_requests_in_flight_and_gives_everything_back(bench):
    bench.put("m", 1)
    repository = await bench.started()
    scheduler = repository.find("m", "").scheduler
    scheduler.submit()

    unloading = asyncio.create_task(repository.unload("m"))
    await until(lambda: table(repository)["m", "1"] == "UNLOADING")
    with pytest.raises(ModelNotReady, match="model 'm' is not in service: it is being unloaded"):
        repository.find("m", "")
    assert not unloading.done()
    assert bench.ledger.open_instances() == 1

    scheduler.finish()
    await unloading
    assert bench.ledger.open_instances() == 0
    assert reason(repository, "m", "1") == "unloaded"
    assert repository.ready()

    await repository.unload("m")
    await repository.load("m", {})
    assert repository.find("m", "").version == "1"


async def test_who_hears_that_a_version_has_left_finds_it_so_in_the_index(bench):
    bench.put("m", 1)
    repository = await bench.started()
    seen = []
    bench.watcher.on_unloaded = lambda *version: seen.append(table(repository)[version])
    await repository.unload("m")

    assert seen == ["UNLOADING"]


async def test_a_model_can_be_loaded_again_while_it_still_drains(bench):
    bench.put("m", 1)
    repository = await bench.started()
    old = repository.find("m", "").scheduler
    old.submit()
    unloading = asyncio.create_task(repository.unload("m"))
    await until(lambda: table(repository)["m", "1"] == "UNLOADING")

    await repository.load("m", {})
    assert table(repository)["m", "1"] == "READY"

    old.finish()
    await unloading
    assert table(repository)["m", "1"] == "READY"
    assert repository.find("m", "").scheduler.submit() == "1"
    assert bench.ledger.open_instances() == 1


@pytest.mark.parametrize("name", ["absent", "../store/m", "", "x" * 1000])
async def test_unknown_models_are_not_found(bench, name):
    bench.put("m", 1)
    repository = await bench.started()

    for change in (repository.load(name, {}), repository.unload(name)):
        with pytest.raises(ModelNotFound) as caught:
            await change
        assert len(str(caught.value)) < 150
    for ask in (repository.versions, lambda name: repository.find(name, "")):
        with pytest.raises(ModelNotFound):
            ask(name)
    with pytest.raises(ModelNotFound, match=r"model 'm': expected a version in service \(1\), got '3'"):
        repository.find("m", "3")


async def test_a_caller_who_leaves_does_not_stop_the_load(bench):
    bench.put("m", 1)
    repository = await bench.started()
    gate = bench.ledger.gate("m", 2)
    bench.put("m", 2)
    loading = asyncio.create_task(repository.load("m", {}))
    await entered(bench.ledger.entered)

    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    gate.set()
    await repository.settled()

    assert repository.find("m", "").version == "2"


async def test_one_change_at_a_time_per_model_and_a_bounded_number_of_loads(bench):
    for name in "abcde":
        bench.put(name, 1)
    gate = threading.Event()
    bench.ledger.gates = {(name, "1"): gate for name in "abcde"}
    repository = bench.repository(parallel_loads=2)
    starting = asyncio.create_task(repository.start())
    await until(lambda: bench.ledger.loading == 2)
    gate.set()
    await starting
    assert bench.ledger.most_loading == 2

    bench.ledger.most_loading = 0
    for content in (b"x", b"yy", b"zzz"):
        (bench.root / "a" / "1" / "model.onnx").write_bytes(content)
        await asyncio.gather(*(repository.load("a", {}) for _ in range(3)))
    assert bench.ledger.most_loading == 1
    assert [name for name, _ in bench.ledger.loads].count("a") == 4


async def test_polling_follows_the_store(bench):
    bench.put("m", 1)
    bench.put("going", 1)
    repository = await bench.started("poll")

    bench.put("m", 2)
    bench.put("coming", 1)
    for path in sorted((bench.root / "going").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (bench.root / "going").rmdir()
    await repository.poll_once()
    await repository.settled()

    assert repository.find("m", "").version == "2"
    assert repository.find("coming", "").version == "1"
    with pytest.raises(ModelNotFound):
        repository.find("going", "")
    assert table(repository) == {("coming", "1"): "READY", ("m", "1"): "UNAVAILABLE", ("m", "2"): "READY"}
    assert repository.ready()
    assert bench.ledger.open_instances() == 2
    await repository.close()


async def test_polling_tries_a_broken_version_again_only_when_it_has_changed(bench):
    bench.put("m", 1)
    repository = await bench.started("poll")
    bench.put("m", 2)
    bench.ledger.break_("m", 2)

    for _ in range(3):
        await repository.poll_once()
        await repository.settled()
    assert bench.ledger.loads == [("m", "1"), ("m", "2")]
    assert repository.find("m", "").version == "1"
    assert repository.ready()

    bench.ledger.broken.clear()
    (bench.root / "m" / "2" / "model.onnx").write_bytes(b"mended")
    await repository.poll_once()
    await repository.settled()
    assert repository.find("m", "").version == "2"
    await repository.close()


@pytest.mark.parametrize("accident", ["gone", "empty"])
async def test_a_store_that_vanishes_changes_nothing(bench, accident):
    bench.put("m", 1)
    repository = await bench.started("poll")
    bench.root.rename(bench.root.with_name("elsewhere"))
    if accident == "empty":
        bench.root.mkdir()

    await repository.poll_once()
    await repository.settled()

    assert repository.find("m", "").version == "1"
    assert repository.ready()
    await repository.close()


async def test_explicit_control_shows_what_could_be_loaded_and_changes_nothing_by_itself(bench):
    bench.put("m", 1)
    bench.put("o", 1)
    repository = await bench.started()
    bench.put("m", 2)
    bench.put("n", 1)
    (bench.root / "o").rename(bench.root / ".gone")

    await repository.poll_once()
    await repository.settled()

    assert table(repository) == {("m", "1"): "READY", ("n", ""): "UNAVAILABLE", ("o", "1"): "READY"}
    assert sorted(bench.ledger.loads) == [("m", "1"), ("o", "1")]
    await repository.close()


async def test_a_start_that_is_given_up_leaves_nothing_behind(bench, monkeypatch):
    monkeypatch.setattr("server.repository.repository.CLOSE_TIMEOUT", 0.01)
    bench.put("m", 1)
    gate = bench.ledger.gate("m", 1)
    repository = bench.repository("none")
    starting = asyncio.create_task(repository.start())
    await entered(bench.ledger.entered)

    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await repository.close()
    gate.set()
    await repository.settled()

    assert len(bench.ledger.instances) == 1
    assert bench.ledger.open_instances() == 0
    assert not repository.ready()


async def test_the_poll_task_looks_by_itself_and_ends_with_the_server(bench):
    bench.put("m", 1)
    repository = await bench.started("poll", poll_seconds=0.01)

    bench.put("m", 2)
    await until(lambda: repository.find("m", "").version == "2")

    await repository.close()
    await until(repository._polling.done)
    assert repository._polling.exception() is None


async def test_draining_finishes_what_was_accepted_and_changes_nothing_more(bench):
    bench.put("m", 1)
    repository = await bench.started()
    scheduler = repository.find("m", "").scheduler
    scheduler.submit()

    repository.announce_drain()
    assert not repository.ready()
    assert repository.find("m", "").scheduler.submit() == "1"
    for change in (repository.load("m", {}), repository.unload("m")):
        with pytest.raises(ShuttingDown):
            await change

    draining = asyncio.create_task(repository.drain())
    scheduler.finish()
    await asyncio.sleep(0)
    assert not draining.done()
    scheduler.finish()
    await draining
    await repository.close()
    assert bench.ledger.open_instances() == 0


async def test_closing_gives_everything_back_at_once_and_twice_is_once(bench):
    bench.put("m", 1)
    bench.put("n", 1)
    repository = await bench.started()
    repository.find("m", "").scheduler.submit()
    bench.put("m", 2)
    await repository.load("m", {})
    repository.find("n", "").scheduler.submit()

    await repository.close()
    await repository.close()

    assert bench.ledger.open_instances() == 0
    assert repository.served() == []


async def test_what_finishes_loading_after_the_close_is_closed_as_well(bench, monkeypatch):
    monkeypatch.setattr("server.repository.repository.CLOSE_TIMEOUT", 0.01)
    bench.put("m", 1)
    repository = await bench.started()
    gate = bench.ledger.gate("m", 2)
    bench.put("m", 2)
    loading = asyncio.create_task(repository.load("m", {}))
    await entered(bench.ledger.entered)

    await repository.close()
    assert not loading.done()
    gate.set()

    with pytest.raises(ModelLoadFailed, match="the server is shutting down"):
        await loading
    assert len(bench.ledger.instances) == 2
    assert bench.ledger.open_instances() == 0
    with pytest.raises(ModelNotReady):
        repository.find("m", "")


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "break", "mend", "touch"]), st.sampled_from("ab"), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_whatever_happens_to_the_store_nothing_that_works_is_lost(tmp_path_factory, steps):
    asyncio.run(follow(Bench(tmp_path_factory.mktemp("x") / "store"), steps))


async def follow(bench, steps):
    """Change the store step by step under polling and check what must hold after each."""
    bench.put("a", 1)
    repository = await bench.started("poll")
    for action, name, version in steps:
        served = {one.name for one in repository.served()}
        apply(bench, action, name, version)
        await repository.poll_once()
        await repository.settled()

        there = {path.name for path in bench.root.iterdir() if not path.name.startswith(".")}
        serving = {one.name: one for one in repository.served()}
        assert (served & there) <= serving.keys() if there else served == serving.keys()
        assert bench.ledger.open_instances() == len(repository.served())
        for one in serving.values():
            assert repository.find(one.name, "").scheduler.submit() == one.version
            one.scheduler.finish()
        for model in serving.keys() & there:
            newest = max(int(path.name) for path in (bench.root / model).iterdir())
            broken = (model, str(newest)) in bench.ledger.broken
            assert repository.find(model, "").version == str(newest) or broken
    await repository.close()
    assert bench.ledger.open_instances() == 0


def apply(bench, action, name, version):
    path = bench.root / name / str(version)
    if action == "put" and not path.exists():
        bench.put(name, version)
    elif action == "remove" and path.exists():
        (path / "model.onnx").unlink()
        path.rmdir()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    elif action == "break":
        bench.ledger.break_(name, version)
    elif action == "mend":
        bench.ledger.broken.pop((name, str(version)), None)
    if action in ("mend", "touch") and path.exists():
        (path / "model.onnx").write_bytes(b"x" * ((path / "model.onnx").stat().st_size + 1))
