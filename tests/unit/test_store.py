import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import ModelLoadFailed, ModelNotFound
from server.spec import VersionPolicy
from server.store import MAX_CONFIG_BYTES, Store, StoreError, fingerprint, select


def write(path, text="model"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def root(tmp_path):
    """Return a store with one model of two versions, inside a directory that also holds what is not its own."""
    for version in ("1", "2"):
        write(tmp_path / "store" / "m" / version / "model.onnx")
    write(tmp_path / "outside" / "model.onnx")
    return tmp_path / "store"


def refusal(root, name="m", override=None):
    with pytest.raises(ModelLoadFailed) as caught:
        Store(root).read(name, override)
    assert str(root.parent) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("missing", ["absent", "file"])
def test_a_store_that_is_none_is_one_clear_error(tmp_path, missing):
    write(tmp_path / "file")

    with pytest.raises(StoreError, match=r"^model store .*: expected a directory of models: N") as caught:
        Store(tmp_path / missing).scan()

    assert "\n" not in str(caught.value)


def test_a_model_without_config_is_its_versions(root):
    model = Store(root).read("m")

    assert list(model.versions) == [1, 2]
    assert model.versions[2].version == "2"
    assert model.versions[2].directory == root / "m" / "2"
    assert model.versions[2].model_file == root / "m" / "2" / "model.onnx"
    assert (model.config.name, model.problems) == ("m", {})


def test_what_is_no_model_is_not_listed(root):
    write(root / "README.md")
    write(root / ".git" / "1" / "model.onnx")
    write(root / "lost+found" / "1" / "model.onnx")
    write(root / "notes" / "text.md")
    write(root / "only_config" / "config.pbtxt", "")

    assert Store(root).names() == ["m", "only_config"]


ENTRIES = ["0", "1", "01", "2", "10", "+3", "-4", "5.0", "٣", "x", ".6", "7.tmp", "8 ", "9" * 19, "9223372036854775807"]


@given(st.dictionaries(st.sampled_from(ENTRIES), st.sampled_from(["whole", "partial", "file"]), max_size=8))
def test_versions_are_decimal_directories_with_a_model_in_them(tmp_path_factory, entries):
    model = tmp_path_factory.mktemp("store") / "m"
    write(model / "config.pbtxt", "")
    for name, kind in entries.items():
        if kind == "file":
            write(model / name)
        else:
            write(model / name / ("model.onnx" if kind == "whole" else "model.onnx.part"))

    found = Store(model.parent).read("m")

    numbers = {n: kind for n, kind in entries.items() if re.fullmatch("[1-9][0-9]*", n, re.ASCII) and int(n) < 2**63}
    assert sorted(int(n) for n, kind in numbers.items() if kind == "whole") == list(found.versions)
    assert {int(n) for n, kind in numbers.items() if kind == "partial"} == set(found.problems)


@given(st.sets(st.integers(1, 30)), st.integers(1, 5), st.sets(st.integers(1, 30), min_size=1))
def test_version_policies_choose_from_what_is_there(versions, count, named):
    latest = select(VersionPolicy("latest", count), versions)
    everything = select(VersionPolicy("all"), versions)
    specific = select(VersionPolicy("specific", versions=tuple(named)), versions)

    assert len(latest) == min(count, len(versions))
    assert all(older < newer for newer in latest for older in versions - set(latest))
    assert everything == tuple(sorted(versions))
    assert set(specific) == versions & named
    assert list(latest) == sorted(latest)


def test_a_partial_version_is_a_problem_of_its_own(root):
    (root / "m" / "3").mkdir()

    model = Store(root).read("m")

    assert list(model.versions) == [1, 2]
    assert model.problems == {3: "m/3: expected a file 'model.onnx', there is none"}


def test_the_config_names_the_file_and_a_directory_of_that_name_may_hold_it(root):
    write(root / "m" / "config.pbtxt", 'default_model_filename: "net.onnx"')
    write(root / "m" / "1" / "net.onnx" / "net.onnx")
    write(root / "m" / "1" / "net.onnx" / "weights.bin")

    model = Store(root).read("m")

    assert model.versions[1].model_file == root / "m" / "1" / "net.onnx" / "net.onnx"
    assert list(model.problems) == [2]


def test_an_override_takes_the_configs_place(root):
    write(root / "m" / "config.pbtxt", "nonsense {")

    model = Store(root).read("m", '{"max_batch_size": 2}')

    assert model.config.max_batch_size == 2


@pytest.mark.parametrize("name", ["", "absent", "../store/m", "m/1", ".", "..", "m\0", "m" * 300, "lost+found"])
def test_only_directories_of_the_store_are_models(root, name):
    with pytest.raises(ModelNotFound):
        Store(root).read(name)


@pytest.mark.parametrize(
    ("link", "target", "reason"),
    [
        ("evil", "..", "evil: expected a path inside the model store, it links out of it"),
        ("evil", "../outside", "evil: expected a path inside the model store, it links out of it"),
        ("m/config.pbtxt", "../../outside/model.onnx", "m/config.pbtxt: expected a path inside the model store"),
    ],
)
def test_a_link_out_of_the_store_is_refused(root, link, target, reason):
    (root / link).symlink_to(target)

    assert reason in refusal(root, link.split("/")[0])


@pytest.mark.parametrize(
    ("link", "target"), [("3", "../../outside"), ("3/model.onnx", "/etc/passwd"), ("3", "nowhere")]
)
def test_a_version_that_links_out_costs_only_itself(root, link, target):
    path = root / "m" / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)

    model = Store(root).read("m")

    assert list(model.versions) == [1, 2]
    assert all("links out of it" in reason for reason in model.problems.values())


def test_links_inside_the_store_and_a_store_that_is_a_link_are_fine(root, tmp_path):
    (root / "alias").symlink_to("m")
    (root / "m" / "4").symlink_to("2")
    (tmp_path / "current").symlink_to("store")

    assert list(Store(tmp_path / "current").read("alias").versions) == [1, 2, 4]


def test_a_config_that_is_no_regular_file_is_never_read(root):
    os.mkfifo(root / "m" / "config.pbtxt")

    assert refusal(root) == "m/config.pbtxt: expected a regular file"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "m/config.pbtxt: expected UTF-8, byte 0 is not"),
        (b"#" * (MAX_CONFIG_BYTES + 1), f"m/config.pbtxt: expected at most {MAX_CONFIG_BYTES} bytes"),
        (b"max_batch_size: x", "m/config.pbtxt line 1: max_batch_size: expected a whole number from 0 to 65536, got x"),
    ],
)
def test_a_config_that_cannot_be_read_says_why(root, data, reason):
    (root / "m" / "config.pbtxt").write_bytes(data)

    assert reason == refusal(root)


def test_labels_come_from_beside_the_config_or_from_the_version(root):
    write(root / "m" / "config.pbtxt", 'output { name: "y" label_filename: "labels.txt" }')
    write(root / "m" / "labels.txt", "cat\r\ndog \n\nbird\n\n")
    write(root / "m" / "2" / "labels.txt", "one\ntwo")

    model = Store(root).read("m")

    assert model.versions[1].config.outputs[0].labels == ("cat", "dog", "", "bird")
    assert model.versions[2].config.outputs[0].labels == ("one", "two")


def test_a_label_file_that_is_missing_is_the_versions_problem(root):
    write(root / "m" / "config.pbtxt", 'output { name: "y" label_filename: "labels.txt" }')
    write(root / "m" / "2" / "labels.txt", "one\ntwo")

    model = Store(root).read("m")

    assert list(model.versions) == [2]
    assert model.problems[1] == (
        "output 'y': expected label_filename 'labels.txt' beside config.pbtxt or in the version directory"
    )


CHANGES = {
    "config": lambda m: write(m / "config.pbtxt", "# changed"),
    "labels": lambda m: write(m / "labels.txt"),
    "warmup data": lambda m: write(m / "warmup" / "sample"),
    "new version": lambda m: write(m / "3" / "model.onnx"),
    "version gone": lambda m: (m / "2" / "model.onnx").unlink() or (m / "2").rmdir(),
    "model replaced in place": lambda m: write(m / "2" / "model.onnx", "other!"),
    "model touched": lambda m: os.utime(m / "2" / "model.onnx", ns=(1, 1)),
    "weights": lambda m: write(m / "2" / "deep" / "weights.bin"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_fingerprint_shows_every_change_and_only_changes(root, change):
    before = Store(root).scan()["m"]
    assert before == Store(root).scan()["m"] == Store(root).read("m").fingerprint

    CHANGES[change](root / "m")

    after = Store(root).scan()["m"]
    assert before != after
    assert before.versions[1] == after.versions[1]


def test_a_fingerprint_of_what_went_away_or_leads_nowhere_is_one_too(root):
    (root / "m" / "dangling").symlink_to("nowhere")

    assert list(fingerprint(root / "m").versions) == [1, 2]
    assert fingerprint(root / "gone") == fingerprint(root / "gone")
