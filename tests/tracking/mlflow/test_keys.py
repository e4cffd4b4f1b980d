from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_param_name

from segkit.tracking.mlflow.keys import MAX_NAME, as_params, as_tags, run_name, sanitised

CHOICES = {
    "model": "fcn",
    "backbone": "resnet18",
    "loss": "ce",
    "dataset": "shapes",
    "optimizer": "adamw",
    "hydra": "x",
}
KEYS = ["seed", "name", "optimizer.lr", "backbone.name", "model.head.channels", "model.auxiliary.channels"]


def name(*overrides: str) -> str:
    return run_name(CHOICES, overrides, KEYS)


def test_a_run_is_named_by_what_was_set_and_then_by_its_parts():
    assert name() == "fcn resnet18 ce shapes"
    assert name("seed=1", "optimizer.lr=0.010000000001") == "seed=1 lr=0.01 fcn resnet18 ce shapes"
    assert name("optimizer.lr=1e-3", "seed=1") == name("seed=1", "optimizer.lr=0.001")
    assert name("optimizer=sgd", "+loss@loss.terms.edge.loss=boundary") == (
        "optimizer=sgd loss.terms.edge.loss=boundary fcn resnet18 ce shapes"
    )


def test_as_much_of_a_key_is_shown_as_tells_it_from_others():
    assert name("backbone.name=test_resnet").startswith("backbone.name=test_resnet ")
    assert name("model.head.channels=8").startswith("head.channels=8 ")


def test_what_changes_nothing_of_a_result_is_no_part_of_the_name():
    same = ("resume=auto", "tracker.uri=sqlite:///x.db", "tracker=none", "paths.data_dir=x", "trainer.num_workers=2")
    assert name(*same, "trainer.progress=off", "model=fcn", "sweep=tpe") == name()
    assert name("trainer.num_workers_of_mine=2") != name()


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=200), max_size=8))
def test_names_are_short_and_tell_runs_apart(values: list[str]):
    overrides = [f"key{index}={value}" for index, value in enumerate(values)]
    found = run_name(CHOICES, overrides, [])
    assert len(found) <= MAX_NAME
    assert "\n" not in found
    long = [f"a.very.long.key{index}={'0' * 20}{index}" for index in range(9)]
    assert run_name(CHOICES, long, []) != run_name(CHOICES, [*long[:-1], f"{long[-1]}1"], [])
    assert run_name(CHOICES, ["dataset.root=/data/of/somebody/with/a/long/name/one"], []) != run_name(
        CHOICES, ["dataset.root=/data/of/somebody/with/a/long/name/two"], []
    )


def test_ordinary_keys_keep_their_names():
    keys = ["trainer.max_epochs", "val/iou/traffic light", "lr-group_1"]
    assert sanitised(keys) == dict(zip(keys, keys, strict=True))


def test_keys_that_mlflow_refuses_are_rewritten():
    assert sanitised(["a[0]=b", "/x", "a//b", "..", "x/./y"]) == {
        "a[0]=b": "a_0__b",
        "/x": "_/x",
        "a//b": "a/_/b",
        "..": "_",
        "x/./y": "x/_/y",
    }


def test_keys_that_would_meet_stay_distinct():
    assert sanitised(["a+b", "a*b", "a_b"]) == {"a+b": "a_b", "a*b": "a_b_2", "a_b": "a_b_3"}


@given(st.lists(st.text(max_size=300), unique=True, max_size=8))
def test_every_name_is_valid_short_and_its_own(keys: list[str]):
    accepted = list(sanitised(keys).values())
    assert len(set(accepted)) == len(keys)
    for name in accepted:
        _validate_param_name(name)
        assert 1 <= len(name) <= 250


def test_long_values_are_cut_and_say_so():
    value = as_params({"weights": "7" * 10_000})["weights"]
    assert len(value) == 6000
    assert value.startswith("777")
    assert value.endswith("config/params.json)")
    assert as_params({"exact": "7" * 6000})["exact"] == "7" * 6000
    assert len(as_tags({"diff": "7" * 10_000})["diff"]) == 5000
