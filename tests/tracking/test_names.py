from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_param_name

from segkit.tracking.names import as_params, as_tags, sanitised


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
