"""TGI's rules for generation parameters."""

from typing import Any

import pytest
from pydantic import ValidationError

from gateway.errors import InvalidRequest
from gateway.parameters import Parameters, check_together, combine, samples, streamable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -1),
        ("max_new_tokens", 2**32),
        ("max_new_tokens", 1.5),
        ("max_new_tokens", True),
        ("temperature", 0),
        ("temperature", -0.1),
        ("temperature", "0.5"),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0),
        ("top_p", 1.0),
        ("typical_p", 1.0),
        ("top_k", 0),
        ("repetition_penalty", 0),
        ("frequency_penalty", 2.1),
        ("frequency_penalty", -2.1),
        ("do_sample", "yes"),
        ("seed", -1),
        ("seed", 2**64),
        ("stop", "a string"),
        ("stop", ["1", "2", "3", "4", "5"]),
        ("stop", [""]),
        ("truncate", 0),
        ("best_of", 3),
        ("top_n_tokens", 6),
        ("grammar", {"type": "xml", "value": ""}),
        ("temprature", 1),
    ],
)
def test_value_outside_the_rule_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        Parameters.model_validate({name: value})

    assert caught.value.errors()[0]["loc"][0] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 2**32 - 1),
        ("temperature", 1),
        ("top_p", 0.999),
        ("frequency_penalty", -2),
        ("seed", 2**64 - 1),
        ("stop", ["a", "b", "c", "d"]),
        ("best_of", 2),
        ("grammar", {"type": "json", "value": {"properties": {}}}),
        ("temperature", None),
    ],
)
def test_value_within_the_rule_is_kept(name: str, value: Any) -> None:
    kept = Parameters.model_validate({name: value}).model_dump(exclude_none=True)

    expected = {} if value is None else {name: tuple(value) if isinstance(value, list) else value}
    assert kept == expected


def test_every_parameter_says_its_rule() -> None:
    assert [name for name, field in Parameters.model_fields.items() if not field.description] == []


def test_stronger_layers_win_and_unset_values_do_not() -> None:
    merged = combine({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.2, "seed": None}, {"top_k": 5})

    assert merged == {"temperature": 0.2, "top_p": 0.9, "top_k": 5}


def test_do_sample_false_takes_the_weaker_layers_sampling_with_it() -> None:
    merged = combine({"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 9}, {"do_sample": False})

    assert merged == {"max_new_tokens": 9, "do_sample": False}


@pytest.mark.parametrize(
    ("parameters", "stream", "field"),
    [
        ({"best_of": 2, "do_sample": True}, True, "parameters.best_of"),
        ({"best_of": 2}, False, "parameters.best_of"),
        ({"best_of": 2, "do_sample": True, "seed": 1}, False, "parameters.seed"),
        ({"decoder_input_details": True}, True, "parameters.decoder_input_details"),
    ],
)
def test_parameters_that_exclude_each_other(parameters: dict[str, Any], stream: bool, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_together(parameters, stream=stream)

    assert caught.value.field == field
    assert caught.value.hint


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [({}, False), ({"temperature": 1.0}, False), ({"temperature": 0.5}, True), ({"do_sample": True}, True)],
)
def test_sampling_is_known_before_the_engine_is_asked(parameters: dict[str, Any], expected: bool) -> None:
    assert samples(parameters) is expected


def test_what_cannot_be_streamed() -> None:
    assert streamable({"best_of": 1})
    assert not streamable({"best_of": 2})
    assert not streamable({"decoder_input_details": True})
