"""Lists and folds of samples: what goes in comes out once, groups stay together, wrong lists are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segkit.contracts import LabelSpace, UserError
from segkit.data.datasets.folder import Folder
from segkit.data.datasets.shapes import Shapes
from segkit.data.datasets.subsets import Pool, Subset
from segkit.data.splits import KFold, Lists, Official
from segkit.data.statistics.folds import digest, make_folds, make_lists
from segkit.data.statistics.sample_facts import Counted, SampleFacts
from tests.data.written import write_pair

MakeSource = Callable[..., Any]


def counted(names: list[str], contents: list[str] | None = None) -> Counted:
    """Samples of one class, each with its own content unless told otherwise."""
    facts = [
        SampleFacts(stamp="", shape=(1, 9), pixels=(4, 5), ignored=0, content=content, sums=(0,), squares=(0,))
        for content in contents or names
    ]
    return Counted(tuple(names), tuple(facts), LabelSpace(("a", "b"), ((0, 0, 0), (1, 1, 1))))


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """A data set of six training samples and three for validation."""
    for number in range(9):
        split = "train" if number < 6 else "val"
        write_pair(tmp_path / "data", f"{split}/images/p{number // 2}_{number}.png",
                   f"{split}/masks/p{number // 2}_{number}.png", number)  # fmt: skip
    return partial(Folder, root=str(tmp_path / "data"), num_classes=2)


def names(source: Any) -> list[str]:
    return [source.name(index) for index in range(len(source))]


@settings(max_examples=50, deadline=None)
@given(
    patients=st.lists(st.integers(0, 9), min_size=6, max_size=40).filter(lambda found: len(set(found)) >= 3),
    folds=st.integers(2, 3),
    seed=st.integers(0, 3),
)
def test_patients_never_straddle_folds(patients: list[int], folds: int, seed: int):
    samples = [f"patient{patient}_slice{number}" for number, patient in enumerate(patients)]
    lists = make_folds(counted(samples), folds=folds, seed=seed, group_pattern=r"patient(\d+)")
    assert sorted(name for fold in lists.values() for name in fold) == sorted(samples)
    of_patient = [{name.partition("_")[0] for name in fold} for fold in lists.values()]
    assert sum(map(len, of_patient)) == len(set.union(*of_patient))


def test_the_same_image_under_two_names_stays_on_one_side():
    lists = make_lists(counted(["a", "b", "c", "d"], ["1", "2", "1", "3"]), {"train": 0.5, "val": 0.5}, seed=0)
    assert any({"a", "c"} <= set(part) for part in lists.values())


def test_a_pattern_that_fits_no_name_or_leaves_a_list_empty_is_told():
    with pytest.raises(UserError, match="finds nothing in b"):
        make_folds(counted(["a1", "b"]), folds=2, seed=0, group_pattern=r"a\d")
    with pytest.raises(UserError, match="not a regular expression"):
        make_folds(counted(["a"]), folds=2, seed=0, group_pattern="(")
    with pytest.raises(UserError, match=r"2 samples in 1 groups for 2 lists"):
        make_folds(counted(["x1", "x2"]), folds=2, seed=0, group_pattern="x")


def test_every_sample_evaluates_in_one_fold_and_trains_in_the_others(make_source: MakeSource, tmp_path: Path):
    evaluated: list[str] = []
    for fold in range(3):
        split = KFold(fold=fold, folds=3, group_pattern=r"p\d", cache_dir=str(tmp_path / "cache"))
        train, val = split(make_source, "train"), split(make_source, "val")
        assert not set(names(train)) & set(names(val))
        assert len(train) + len(val) == 9
        assert val.identity()["split"] == f"val of fold {fold} of 3"
        assert val.identity()["samples"] == str(len(val))
        evaluated += names(val)
        for index in range(len(val)):  # what it gives is what the data set has under this name
            stored = tmp_path / "data" / val.name(index)
            assert np.array_equal(val.read(index).image, np.asarray(Image.open(stored)))
    assert len(evaluated) == len(set(evaluated)) == 9


def test_folds_of_other_data_than_that_of_training_are_refused(make_source: MakeSource, tmp_path: Path):
    trained = KFold(fold=0, folds=3)
    trained(make_source, "train")
    KFold(fold=0, folds=3, digest=trained.digest)(make_source, "val")
    write_pair(tmp_path / "data", "train/images/new.png", "train/masks/new.png", 99)
    with pytest.raises(UserError, match=r"other lists of samples .* than those of the training run"):
        KFold(fold=0, folds=3, digest=trained.digest)(make_source, "val")


def write_lists(folder: Path, **lists: list[str]) -> str:
    folder.mkdir(exist_ok=True)
    for part, entries in lists.items():
        (folder / f"{part}.txt").write_text("".join(f"{entry}\n" for entry in entries))
    return str(folder)


def test_lists_choose_samples_of_any_split(make_source: MakeSource, tmp_path: Path):
    folder = write_lists(
        tmp_path / "lists",
        train=["val/images/p3_6.png", "train/images/p0_0.png"],
        val=["train/images/p0_1.png"],
        test=["val/images/p3_7.png"],
    )
    split = Lists(folder=folder)
    assert names(split(make_source, "train")) == ["train/images/p0_0.png", "val/images/p3_6.png"]
    assert names(split(make_source, "val")) == ["train/images/p0_1.png"]
    assert names(split(make_source, "test")) == ["val/images/p3_7.png"]


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train": ["train/images/p0_0.png"], "val": ["train/images/nobody.png"]}, "nobody.png: listed, but no sample"),
        ({"train": ["train/images/p0_0.png"], "val": ["../../etc/passwd"]}, r"passwd: listed, but no sample"),
        ({"train": ["train/images/p0_0.png"], "val": ["train/images/p0_0.png"]}, "p0_0.png: listed more than once"),
        ({"train": ["train/images/p0_0.png"], "val": []}, r"val.txt: the list is empty"),
        ({"train": ["train/images/p0_0.png"]}, r"val.txt: no list of samples here"),
    ],
)
def test_wrong_lists_are_refused(make_source: MakeSource, tmp_path: Path, lists: dict[str, list[str]], says: str):
    with pytest.raises(UserError, match=says):
        Lists(folder=write_lists(tmp_path / "lists", **lists))(make_source, "val")


def test_wrong_folds_are_refused(make_source: MakeSource, tmp_path: Path):
    with pytest.raises(UserError, match=r"split.fold=5; allowed: 0..4"):
        KFold(fold=5)
    with pytest.raises(UserError, match=r"split.folds=1; allowed: 2 or more"):
        KFold(fold=0, folds=1)
    folder = write_lists(tmp_path / "lists", fold_0=["a"], fold_1=["b"])
    with pytest.raises(UserError, match=r"has 2 lists fold_\*.txt, but split.folds=5"):
        KFold(fold=0, folder=folder)(make_source, "train")
    with pytest.raises(UserError, match=r"there is no folder .*\n.*split.pool=\[train\]"):
        KFold(fold=0, pool=["train", "test"])(make_source, "train")


def test_the_official_splits_are_the_sources_own():
    source = Official()(partial(Shapes, num_classes=7, num_val=3), "val")
    assert len(source) == 3
    assert isinstance(source, Shapes)


def test_a_pool_counts_on_through_its_sources_and_refuses_a_name_twice(make_source: MakeSource):
    train, val = make_source(split="train"), make_source(split="val")
    pool = Pool([train, val])
    assert names(pool) == names(train) + names(val)
    assert np.array_equal(pool.read(7).image, val.read(1).image)
    with pytest.raises(UserError, match=r"in more than one split"):
        Pool([train, train])


def test_a_subset_names_what_it_is(make_source: MakeSource):
    train = make_source(split="train")
    some, others = (Subset(train, chosen, "half") for chosen in (names(train)[:3], names(train)[3:]))
    assert some.identity()["digest"] != others.identity()["digest"]
    assert some.identity()["root"] == train.identity()["root"]
    with pytest.raises(UserError, match="nobody"):
        Subset(train, ["nobody"], "half")


def test_a_digest_is_that_of_the_lists_whatever_their_order():
    assert digest({"a": ["1", "2"], "b": ["3"]}) == digest({"b": ["3"], "a": ["2", "1"]})
    assert digest({"a": ["1", "2"], "b": ["3"]}) != digest({"a": ["1"], "b": ["2", "3"]})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", " \r\n\r\n"])
def test_lists_of_every_system_name_the_same_samples(tmp_path: Path, encoding: str, ending: str):
    """Names on disk as macOS writes them, names in lists as Linux does, and the other way round."""
    for name in ("e\u0301", "\u00e9 2", "u\u0308"):
        write_pair(tmp_path / "data", f"train/images/{name}.png", f"train/masks/{name}.png", 0)
    make_source = partial(Folder, root=str(tmp_path / "data"), num_classes=2)
    (tmp_path / "lists").mkdir()
    for part, listed in (("train", ["\u00e9", "e\u0301 2"]), ("val", ["\u00fc"])):
        text = "".join(f"train/images/{name}.png{ending}" for name in listed)
        (tmp_path / "lists" / f"{part}.txt").write_bytes(text.encode(encoding))
    split = Lists(folder=str(tmp_path / "lists"), pool=["train"])
    assert names(split(make_source, "train")) == ["train/images/e\u0301.png", "train/images/\u00e9 2.png"]
    assert names(split(make_source, "val")) == ["train/images/u\u0308.png"]
