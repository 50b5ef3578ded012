"""The registry file: what is accepted, and everything that is wrong said at once."""

from pathlib import Path

import pytest
import yaml

from gateway.cli import load_registry
from gateway.config import ModelSpec
from gateway.registry import RegistryError, device_of

SMALLEST = {"id": "qwen2", "family": "qwen2", "url": "http://127.0.0.1:8080"}
REPOSITORY = Path(__file__).parent.parent


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def problems(tmp_path: Path, content: object) -> list[str]:
    with pytest.raises(RegistryError) as caught:
        load_registry(written(tmp_path, content))
    return [str(problem) for problem in caught.value.problems]


def test_smallest_record_is_enough(tmp_path: Path) -> None:
    registry = load_registry(written(tmp_path, {"models": [SMALLEST]}))

    (model,) = registry.models
    assert (model.engine, model.managed, model.title) == ("tgi", False, "qwen2")
    assert registry.default() == "qwen2"
    assert registry.resolve("nobody") is None


@pytest.mark.parametrize("path", sorted((REPOSITORY / "models").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_registry_is_valid(path: Path) -> None:
    assert load_registry(path).models


def test_shipped_reference_shows_every_key_of_a_model() -> None:
    text = (REPOSITORY / "models" / "models.yaml").read_text(encoding="utf-8")

    elsewhere = {"command", "aliases", "device"}  # shown in local.yaml, and in the text
    missing = [name for name in ModelSpec.model_fields if f"{name}:" not in text and name not in elsewhere]
    assert missing == []


def test_aliases_and_ids_name_the_same_model(tmp_path: Path) -> None:
    raw = {
        "models": [SMALLEST | {"aliases": ["Qwen/Qwen2-7B-Instruct"]}],
        "aliases": {"gpt-3.5-turbo": "qwen2"},
        "default_model": "gpt-3.5-turbo",
    }

    registry = load_registry(written(tmp_path, raw))

    names = ("qwen2", "Qwen/Qwen2-7B-Instruct", "gpt-3.5-turbo")
    assert [registry.resolve(name) for name in names] == ["qwen2"] * 3
    assert registry.default() == "qwen2"


def test_every_problem_is_reported_at_once_with_its_path(tmp_path: Path) -> None:
    raw = {
        "models": [
            SMALLEST | {"family": "qwen9", "limts": {}, "limits": {"max_queu": 3, "max_concurrent": 0}},
            {"id": "qwen2", "family": "llama3"},
            {"id": "b", "family": "llama3", "command": ["x"], "parameters": {"temperatur": 1, "top_p": 1.0}},
        ],
        "devices": [{"id": "gpu0", "memory": "lots"}],
        "aliases": {"gpt": "qwen3"},
        "default_model": "nope",
        "scenarios": {"raw": {}, "mine": {"user": "no place"}},
        "extra": 1,
    }

    found = "\n".join(problems(tmp_path, raw))

    for expected in (
        "models[0].family: `qwen9` does not exist (did you mean `qwen2`?); allowed: chatml, llama-3.1,",
        "models[0].limts: unknown key (did you mean `limits`?); allowed here: aliases, capabilities,",
        "models[0].limits.max_queu: unknown key (did you mean `max_queue`?)",
        "models[0].limits.max_concurrent: input should be greater than 0 (got 0)",
        "models[1].id: the name `qwen2` is taken already, by models[0].id",
        "models[1]: needs `url`",
        "models[2].command: must contain {port}",
        "models[2].memory: is required",
        "models[2].parameters.temperatur: unknown key (did you mean `temperature`?)",
        "models[2].parameters.top_p: input should be less than 1 (got 1.0)",
        "devices[0].memory: could not parse",
        "aliases.gpt: points at `qwen3`, no model here (did you mean `qwen2`?); there are: b, qwen2",
        "default_model: points at `nope`",
        "scenarios.raw: `raw` means",
        "scenarios.mine.user: must contain {inputs} exactly once",
        "extra: unknown key; allowed here: aliases, default_model, devices, models, scenarios, switching",
    ):
        assert expected in found


def owned(name: str, memory: str, **more: object) -> dict[str, object]:
    return {"id": name, "family": "chatml", "command": ["engine", "{port}"], "memory": memory} | more


@pytest.mark.parametrize(
    ("devices", "models", "expected"),
    [
        (
            [{"id": "gpu0", "memory": "11GiB"}, {"id": "gpu0", "memory": "24GiB"}],
            [owned("a", "1GiB", device="gpu0")],
            "devices[1].id: the name `gpu0` is taken already, by devices[0].id",
        ),
        (
            [{"id": "gpu0", "memory": "11GiB"}],
            [owned("a", "10GiB"), owned("b", "12GiB")],
            "models[1].memory: 12.0GiB is more than its device `gpu0` has, 11.0GiB",
        ),
        (
            [{"id": "gpu0", "memory": "11GiB"}, {"id": "gpu1", "memory": 8_000_000_000}],
            [owned("a", "10GiB", device="gpu0"), owned("b", "10GiB", device="gpu1")],
            "models[1].memory: 10.0GiB is more than its device `gpu1` has, 7.5GiB",
        ),
        (
            [{"id": "gpu0", "memory": "11GiB"}, {"id": "gpu1", "memory": "11GiB"}],
            [owned(n, "6GiB", device="gpu0", pinned=True) for n in "ab"]
            + [owned("c", "6GiB", device="gpu1", pinned=True), owned("d", "6GiB", device="gpu0")],
            (
                "models: the pinned models of `gpu0` (a, b) need 12.0GiB together, and it has 11.0GiB: "
                "unpin one, or declare more memory"
            ),
        ),
    ],
    ids=["device-twice", "larger-than-the-device", "larger-than-its-own-device", "pinned-together"],
)
def test_what_cannot_fit_its_device_is_refused(
    tmp_path: Path, devices: list[object], models: list[object], expected: str
) -> None:
    assert problems(tmp_path, {"devices": devices, "models": models}) == [expected]


def test_models_and_pinned_models_that_just_fit_are_accepted(tmp_path: Path) -> None:
    models = [owned("a", "5GiB", pinned=True), owned("b", "6GiB", pinned=True), owned("c", "11GiB")]
    raw = {"devices": [{"id": "gpu0", "memory": "11GiB"}], "models": models}
    assert len(load_registry(written(tmp_path, raw)).models) == 3


@pytest.mark.parametrize("key", ["url", "supervisor"])
@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("http://engine:0", "'0'"),
        ("http://engine:65536/v1", "'65536'"),
        ("https://[::1]:99999", "'99999'"),
        ("http://user:secret@engine:-1", "'-1'"),
        ("http://engine:http", "'http'"),
    ],
)
def test_port_that_does_not_exist_is_refused(tmp_path: Path, key: str, address: str, port: str) -> None:
    model = SMALLEST | {"supervisor": "http://127.0.0.1:9000"} | {key: address}
    expected = f"models[0].{key}: has the port {port}; a port is a number from 1 to 65535"
    assert problems(tmp_path, {"models": [model]}) == [expected]


@pytest.mark.parametrize(
    "address",
    ["http://engine", "http://engine:1/", "https://[::1]:65535/v1", "http://[::1]", "http://u:p@h:80"],
)
def test_port_that_may_exist_is_accepted(tmp_path: Path, address: str) -> None:
    assert load_registry(written(tmp_path, {"models": [SMALLEST | {"url": address}]})).models


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pinned", True),
        ("preload", True),
        ("idle_timeout_s", 60),
        ("memory", "10GiB"),
        ("device", "gpu0"),
    ],
)
def test_key_without_effect_on_an_engine_of_somebody_else_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    devices = [{"id": "gpu0", "memory": "11GiB"}]
    ours = SMALLEST | {"supervisor": "http://127.0.0.1:9000", "memory": "10GiB", key: value}
    assert load_registry(written(tmp_path, {"devices": devices, "models": [ours]})).models
    (found,) = problems(tmp_path, {"devices": devices, "models": [SMALLEST | {key: value}]})
    assert found == (
        f"models[0].{key}: has no effect: with `url` alone somebody else starts and stops the engine; "
        "add `supervisor`, or leave it out"
    )


def test_a_switch_that_is_off_may_stand_at_an_engine_of_somebody_else(tmp_path: Path) -> None:
    model = SMALLEST | {"pinned": False, "preload": False, "memory": None}
    assert load_registry(written(tmp_path, {"models": [model]})).models


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("models: [", "file: is not YAML"),
        ("- a\n- b\n", "file: must be a mapping"),
        ("", "file: must be a mapping"),
        ("models: []\n", "models: "),
        ("models: []\nmodels: []\n", "the key `models` stands 2 times in the mapping at line 1"),
    ],
)
def test_file_that_is_no_registry_is_refused(tmp_path: Path, content: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(tmp_path, content))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        RegistryError, match=r"nowhere\.yaml: 1 problem\n  file: cannot be read: No such file"
    ):
        load_registry(tmp_path / "nowhere.yaml")


def test_only_managed_models_take_memory_of_a_device(tmp_path: Path) -> None:
    raw = {
        "devices": [{"id": "gpu0", "memory": "11GiB"}],
        "models": [
            SMALLEST,
            {"id": "own", "family": "chatml", "command": ["engine", "{port}"], "memory": "10GiB"},
        ],
    }

    registry = load_registry(written(tmp_path, raw))

    assert [device_of(model, registry) for model in registry.models] == [None, "gpu0"]
    assert registry.models[1].memory == 10 * 2**30
