import pytest

from server.errors import InvalidRequest, JobNotFound, NeedsRedis
from server.jobs import JobState, check_key, check_model_name, model_of, needs_redis, new_job_id


@pytest.mark.parametrize("model", ["churn", "a", "A.b_c-9", "x-y-z", "m" * 128])
def test_a_job_id_says_its_model_and_cannot_be_guessed(model):
    first, second = new_job_id(model), new_job_id(model)

    assert model_of(first) == model
    assert first != second
    assert len(first) == len(model) + 1 + 32


@pytest.mark.parametrize(
    "text", ["", "churn", "churn-", "churn-xyz", "-" + "0" * 32, "{m}-" + "0" * 32, "a-" + "0" * 31, "a-" + "G" * 32]
)
def test_what_is_no_job_id_is_no_job(text):
    with pytest.raises(JobNotFound):
        model_of(text)


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a{b}", "a\n", "m" * 129, "é"])
def test_a_name_that_cannot_be_part_of_a_key_is_refused(name):
    with pytest.raises(InvalidRequest, match="model_name: expected"):
        check_model_name(name)


def test_a_key_has_a_longest_length():
    assert check_key("k" * 128) == "k" * 128
    with pytest.raises(InvalidRequest, match="got 129"):
        check_key("k" * 129)


def test_only_two_states_are_not_final():
    assert {state for state in JobState if not state.final} == {JobState.QUEUED, JobState.RUNNING}


def test_without_redis_the_error_says_what_to_start():
    assert isinstance(needs_redis(), NeedsRedis)
    assert "--queue redis://" in str(needs_redis())
