"""What a site holds: its part of the data, split as asked, a fifth of it held out; and what it says when it cannot."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as untyped_pandas
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Value
from PIL import Image as Picture

from client.data import SiteData, class_counts, load_site_data
from client.partition import partition_rows
from client.site import Site, read_site, simulated_name
from client.sources import DataError, Samples, read_samples, scaled
from strategies.errors import SettingsError
from strategies.settings import Settings, parse_settings

pandas = cast(Any, untyped_pandas)
LABELS = np.repeat(np.arange(10), 100)


def counts(split: str, partition: int, n_sites: int) -> list[int]:
    rows = partition_rows(LABELS, parse_settings({"split": split}), partition, n_sites)
    return [int(count) for count in np.bincount(LABELS[rows], minlength=10)]


def site_data(partition: int = 0, settings: Settings | None = None) -> SiteData:
    return load_site_data(Site(simulated_name(partition), Path(), "digits", partition, 2), settings or Settings())


def test_the_biased_split_is_the_papers() -> None:
    assert counts("biased", 0, 2) == [20] * 5 + [80] * 5
    assert counts("biased", 1, 2) == [80] * 5 + [20] * 5


def test_disjoint_sites_share_no_label() -> None:
    held = [counts("disjoint", site, 3) for site in range(3)]
    assert all(sum(site[label] > 0 for site in held) == 1 for label in range(10))


@pytest.mark.parametrize("split", ["biased", "disjoint", "iid", "dirichlet"])
@pytest.mark.parametrize("n_sites", [2, 5, 12])
def test_every_sample_falls_to_exactly_one_site(split: str, n_sites: int) -> None:
    settings = parse_settings({"split": split})
    rows = [row for site in range(n_sites) for row in partition_rows(LABELS, settings, site, n_sites)]
    assert sorted(rows) == list(range(len(LABELS)))


@pytest.mark.parametrize("split", ["biased", "iid", "dirichlet"])
def test_the_seed_decides_the_split(split: str) -> None:
    one, same, other = (parse_settings({"split": split, "seed": seed}) for seed in (1, 1, 2))
    assert partition_rows(LABELS, one, 0, 2) == partition_rows(LABELS, same, 0, 2)
    assert partition_rows(LABELS, one, 0, 2) != partition_rows(LABELS, other, 0, 2)


def test_iid_sites_hold_every_class_though_the_data_lies_sorted() -> None:
    assert min(counts("iid", 0, 2)) > 20


def test_a_fifth_of_each_class_is_held_out_and_never_trained_on() -> None:
    data = site_data()
    for trained, held in zip(class_counts(data.train, 10), class_counts(data.held_out, 10), strict=True):
        assert held == round(0.2 * (trained + held))
    trained_on = {image.numpy().tobytes() for image in data.train.inputs}
    # The digits hold a few duplicates.
    assert sum(image.numpy().tobytes() in trained_on for image in data.held_out.inputs) < 5


def test_all_of_digits_is_spread_over_the_sites() -> None:
    parts = [site_data(partition) for partition in range(2)]
    assert sum(len(part.train) + len(part.held_out) for part in parts) == 1797


def test_batches_cover_every_sample_once_scaled_to_minus_one_to_one() -> None:
    samples = Samples(torch.tensor([[0], [255], [51]], dtype=torch.uint8), torch.tensor([0, 1, 2]))
    batches = list(samples.batches(2, torch.device("cpu")))
    assert torch.allclose(torch.cat([inputs for inputs, _ in batches]).flatten(), torch.tensor([-1.0, 1.0, -0.6]))
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 1, 2]


def test_tokens_stay_whole_numbers() -> None:
    assert scaled(torch.tensor([[3, 5]])).dtype == torch.int64
    assert scaled(torch.tensor([[3.0, 5.0]], dtype=torch.float64)).dtype == torch.float32


def test_a_shuffled_batch_of_one_is_left_out_for_batch_norm() -> None:
    samples = Samples(torch.zeros(5, 1), torch.arange(5))
    sizes = [len(targets) for _, targets in samples.batches(2, torch.device("cpu"), torch.Generator())]
    assert sizes == [2, 2]


@pytest.mark.parametrize("drawn", [False, True])
def test_no_batch_that_a_network_is_judged_on_is_of_one_sample(drawn: bool) -> None:
    samples = Samples(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.arange(5))
    source = samples.drawn(0, torch.Generator().manual_seed(0)) if drawn else samples
    batches = list(source.batches(2, torch.device("cpu")))
    assert [len(targets) for _, targets in batches] == [2, 3]
    assert torch.cat([targets for _, targets in batches]).sort().values.tolist() == [0, 1, 2, 3, 4]
    keeps_no_statistics = torch.nn.BatchNorm1d(3, track_running_stats=False).eval()
    assert all(keeps_no_statistics(inputs).isfinite().all() for inputs, _ in batches)


def save_images(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            Picture.new("RGB", (4, 6), (number, 0, 255 if label == "cat" else 0)).save(folder / label / f"{number}.png")


def test_a_folder_of_images_is_read(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    samples = read_samples(str(tmp_path / "pictures"))
    assert tuple(samples.inputs.shape) == (20, 3, 6, 4)
    assert class_counts(samples, 2) == [10, 10]
    assert bool((samples.inputs[samples.targets == 0][:, 2] == 255).all())


def save(*paths: Path) -> None:
    """A grey image at each of ``paths``."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("L", (8, 8)).save(path)


@pytest.mark.parametrize("name", ["test_{}.png", "val {}.png", "train.{}.png"])
def test_an_image_whose_name_is_like_a_splits_leaves_no_other_out(tmp_path: Path, name: str) -> None:
    for label in ("normal", "pneumonia"):
        save(*(tmp_path / label / f"{number:04}.png" for number in range(10)))
        save(tmp_path / label / name.format(label))
    assert class_counts(read_samples(str(tmp_path)), 2) == [11, 11]


@pytest.mark.parametrize("label", ["positive test", "train", "test"])
def test_a_class_may_be_called_like_a_split(tmp_path: Path, label: str) -> None:
    save(tmp_path / "bus" / "0.png", tmp_path / label / "0.png", tmp_path / label / "1.png")
    samples = read_samples(str(tmp_path))
    assert (samples.names, class_counts(samples, 2)) == (("bus", label), [1, 2])


@pytest.mark.parametrize("split", ["train", "Train", "training"])
def test_a_folder_for_testing_beside_the_one_for_training_is_not_read(tmp_path: Path, split: str) -> None:
    for part, n in ((split, 3), ("test", 2)):
        save(*(tmp_path / part / label / f"{number}.png" for label in ("cat", "dog") for number in range(n)))
    assert class_counts(read_samples(str(tmp_path)), 2) == [3, 3]


@pytest.mark.parametrize("names", [("train", "test"), ("ward-train", "ward-test"), ("train/0", "test/0")])
def test_parquet_for_testing_beside_that_for_training_is_not_read(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Path(write_table(tmp_path, kind=(Value("int64"), AS_TOLD))).rename(tmp_path / f"{name}.parquet")
    assert len(read_samples(str(tmp_path))) == 6


def test_one_parquet_file_whose_name_is_like_a_splits_leaves_no_other_out(tmp_path: Path) -> None:
    for name in ("ward-a", "ward-test"):
        Path(write_table(tmp_path, kind=(Value("int64"), AS_TOLD))).rename(tmp_path / f"{name}.parquet")
    assert len(read_samples(str(tmp_path))) == 12


def test_images_beside_a_table_of_their_classes_need_no_folders(tmp_path: Path) -> None:
    save(tmp_path / "train" / "0.png", tmp_path / "train" / "1.png")
    (tmp_path / "train" / "metadata.jsonl").write_text(
        '{"file_name": "0.png", "label": 1}\n{"file_name": "1.png", "label": 0}\n'
    )
    assert read_samples(str(tmp_path)).targets.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["0.png", "1.png"], r"0\.png lies in no folder of a class. Expected one folder per class, such as .*normal"),
        (["0.png", "cat/1.png"], r"0\.png lies in no folder of a class"),
        (["train/0.png", "test/1.png"], r"test is named like a split, and images lie in it without"),
        (["cat/0.png", "dog/new/1.png"], r"several depths, such as .*0\.png and .*1\.png. Expected one folder"),
        (
            ["train_1/cat/0.png", "test_1/cat/1.png"],
            r"test_1 is named like a split, which would be called .*train. Give .* or rename it",
        ),
        (["x/train/cat/0.png", "x/test/cat/1.png"], r"test is named like a split, .*such as data = "),
    ],
)
def test_images_whose_classes_no_folder_tells_are_refused(tmp_path: Path, files: list[str], told: str) -> None:
    save(*(tmp_path / file for file in files))
    with pytest.raises(DataError, match=told):
        read_samples(str(tmp_path))


def test_a_class_whose_folder_is_a_link_is_not_left_out_without_a_word(tmp_path: Path) -> None:
    save(*(tmp_path / place / "0.png" for place in ("data/cat", "data/dog", "elsewhere")))
    (tmp_path / "data" / "eel").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(
        DataError, match=r"eel is a link, which .* passes over. Put the folder itself in its place: .*where"
    ):
        read_samples(str(tmp_path / "data"))
    (tmp_path / "linked").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "eel").unlink()
    assert len(read_samples(str(tmp_path / "linked"))) == 2


def test_a_single_class_is_a_class(tmp_path: Path) -> None:
    save(*(tmp_path / "pictures" / "dog" / f"{number}.png" for number in range(5)), tmp_path / ".cat" / "0.png")
    samples = read_samples(str(tmp_path / "pictures"))
    assert (samples.names, samples.targets.tolist()) == (("dog",), [0] * 5)
    settings = parse_settings({"shape": "1x8x8", "classes": 2, "class-names": "cat,dog"})
    assert (
        load_site_data(Site("site-us", tmp_path, str(tmp_path / "pictures")), settings).train.targets.tolist()
        == [1] * 4
    )


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    pictures = [{"path": str(path)} for path in sorted((tmp_path / "pictures").rglob("*.png"))]
    features = Features({"img": Image(), "kind": Value("int64")})
    table = Dataset.from_dict({"img": [each["path"] for each in pictures], "kind": [0, 1] * 10}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    samples = read_samples(str(tmp_path / "train.parquet"))
    assert tuple(samples.inputs.shape) == (20, 3, 6, 4)
    assert samples.targets.tolist() == [0, 1] * 10


def write_table(path: Path, **columns: tuple[object, list[int | None]]) -> str:
    """A parquet file of six images, with columns of these features and values beside them; returns its path."""
    image = Picture.new("L", (8, 8))
    features = Features({"image": Image(), **{name: feature for name, (feature, _) in columns.items()}})
    values = {name: column for name, (_, column) in columns.items()}
    Dataset.from_dict({"image": [image] * 6, **values}, features=features).to_parquet(path / "six.parquet")
    return str(path / "six.parquet")


AS_TOLD: list[int | None] = [1, 1, 1, 0, 0, 0]
OTHERWISE: list[int | None] = [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint32", "int64"])
def test_a_label_is_any_whole_number(tmp_path: Path, dtype: str) -> None:
    assert read_samples(write_table(tmp_path, kind=(Value(dtype), AS_TOLD))).targets.tolist() == AS_TOLD


@pytest.mark.parametrize("sex", [Value("int64"), ClassLabel(names=["f", "m"])], ids=["a number", "a class"])
def test_of_several_columns_the_label_is_the_one_of_that_name(tmp_path: Path, sex: object) -> None:
    data = write_table(tmp_path, sex=(sex, OTHERWISE), label=(Value("int32"), AS_TOLD))
    assert read_samples(data).targets.tolist() == AS_TOLD


def test_beside_numbers_the_label_is_the_column_of_classes(tmp_path: Path) -> None:
    kind = ClassLabel(names=["cat", "dog"])
    data = write_table(tmp_path, age=(Value("int64"), OTHERWISE), kind=(kind, AS_TOLD))
    assert read_samples(data).targets.tolist() == AS_TOLD


@pytest.mark.parametrize("feature", [Value("int64"), ClassLabel(names=["a", "b"])], ids=["numbers", "classes"])
def test_which_of_several_columns_is_the_label_is_not_guessed(tmp_path: Path, feature: object) -> None:
    data = write_table(tmp_path, sex=(feature, OTHERWISE), kind=(feature, AS_TOLD))
    with pytest.raises(DataError, match=r"one label column .*, got image .*, sex .*, kind .* rename it so"):
        read_samples(data)


def test_a_file_that_is_no_parquet_is_told_to_be_read_by_a_function(tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_text("age,label\n60,0\n71,1\n")
    with pytest.raises(DataError, match=r"A file is read as parquet .* CSV .* data = 'module:function'"):
        read_samples(str(tmp_path / "ward.csv"))


def test_a_sample_without_a_label_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="sample 2 has nothing in the label column 'kind'"):
        read_samples(write_table(tmp_path, kind=(Value("int64"), [0, 1, None, 1, 0, 1])))


def test_a_function_of_the_sites_own_gives_the_samples() -> None:
    assert read_samples("tests.test_site_data:ten_samples").targets.tolist() == [0, 1] * 5


def ten_samples() -> tuple[torch.Tensor, list[int]]:
    return torch.zeros(10, 1, 8, 8), [0, 1] * 5


def test_what_pandas_has_is_numbered_by_the_names_of_its_classes() -> None:
    samples = read_samples("tests.test_site_data:ward")
    assert samples.inputs.tolist() == [[60.5, 1.0], [71.0, 0.0], [48.0, 1.0]]
    assert samples.names == ("benign", "malignant")
    assert samples.targets.tolist() == [1, 0, 0]


def ward() -> object:
    table = pandas.DataFrame(
        {"age": [60.5, 71, 48], "smokes": [True, False, True], "found": ["malignant", *["benign"] * 2]}
    )
    return table[["age", "smokes"]], table["found"]


def test_classes_that_are_named_have_the_numbers_of_the_run_where_a_site_lacks_one() -> None:
    told: dict[str, object] = {"model": "mlp", "shape": "1", "classes": 2, "held-out": 0.5}
    site = Site("site", Path(), "tests.test_site_data:all_malignant")
    named = load_site_data(site, parse_settings(told | {"class-names": "benign,malignant"}))
    assert named.train.targets.tolist() == [1, 1]
    with pytest.raises(DataError, match=r"it has the classes malignant, .* 'class-names'"):
        load_site_data(site, parse_settings(told))


def all_malignant() -> object:
    return [[0.0], [1.0], [2.0], [3.0]], ["malignant"] * 4


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("no/such/folder", "data 'no/such/folder': no such file or folder. Expected 'digits', 'module:function'"),
        ("no_such_module:f", "data 'no_such_module:f': no module 'no_such_module' on Python's path"),
        ("tests.test_site_data:missing", "data 'tests.test_site_data:missing': no function 'missing' in .*data.py"),
        ("no_such_module:", "data 'no_such_module:': expected module:function"),
    ],
)
def test_data_that_is_not_there_says_what_was_looked_for(data: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        read_samples(data)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import a_library_that_is_absent", "ModuleNotFoundError: No module named 'a_library_that_is_absent'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_inside_the_module_of_the_data_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    (tmp_path / "broken_data.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=f"data 'broken_data:f': its module cannot be imported; {told}"):
        read_samples("broken_data:f")


def test_a_folder_without_images_says_what_it_found(tmp_path: Path) -> None:
    Dataset.from_dict({"age": [1, 2], "name": ["a", "b"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(
        DataError, match=r"expected one image column and one label column of whole numbers, got age .*name"
    ):
        read_samples(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("shape", "3x32x32", "samples have shape 1x8x8, the setting 'shape' says 3x32x32"),
        ("classes", 7, r"classes are numbered 0\.\.9, the setting 'classes' says 7"),
    ],
)
def test_data_that_does_not_fit_the_network_says_so(key: str, value: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        site_data(settings=parse_settings({key: value}))


def test_simulated_sites_have_names() -> None:
    names = [read_site({"partition-id": i, "num-partitions": 3}, Settings()).name for i in range(3)]
    assert names == ["site-us", "site-eu", "site-3"]


@pytest.mark.parametrize("config", [{}, {"partition-id": 1, "num-partitions": 2}], ids=["own data", "a share"])
def test_a_sites_folder_is_its_own_not_the_servers(config: dict[str, object], tmp_path: Path) -> None:
    # Where a site runs, the folder of runs need not be there, nor be one in which it may write.
    settings = parse_settings({"runs-dir": "/runs", "run": "first"})
    site = read_site({"name": "site-a", "state-dir": str(tmp_path), **config}, settings)
    assert site.directory == tmp_path / "site-a" / "first"


@pytest.mark.parametrize("name", ["../../etc", "a\nb", 'quo"te', " "])
def test_a_site_name_that_could_not_be_a_file_or_a_label_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="site name"):
        read_site({"name": name}, Settings())


def test_a_sites_seed_depends_on_its_name_and_purpose_only() -> None:
    us, other = (Site(name, Path(), "digits") for name in ("site-us", "site-eu"))
    assert us.seed(0, "x") == Site("site-us", Path("elsewhere"), "other", 3, 4).seed(0, "x")
    assert len({us.seed(0, "x"), us.seed(0, "y"), us.seed(1, "x"), other.seed(0, "x")}) == 4


def images(folder: Path, *pictures: Picture.Image) -> Path:
    """A folder of images of one class each."""
    for number, picture in enumerate(pictures):
        (folder / str(number)).mkdir(parents=True)
        picture.save(folder / str(number) / "one.png")
    return folder


def settings_of(classes: int, names: str = "") -> Settings:
    return parse_settings({"shape": "3x6x4", "classes": classes, "class-names": names})


def test_a_class_that_a_site_lacks_moves_no_other(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    site = Site("site-us", tmp_path, str(tmp_path / "pictures"))
    data = load_site_data(site, settings_of(4, "bird, dog, fish, cat"))
    both = torch.cat([data.train.targets, data.held_out.targets])
    assert torch.bincount(both, minlength=4).tolist() == [0, 10, 0, 10]
    blue = data.train.inputs[data.train.targets == 3][:, 2]
    assert bool((blue == 255).all()), "cats are blue"
    assert data.train.names == ("bird", "dog", "fish", "cat")


def test_a_class_that_the_run_does_not_name_is_told(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    site = Site("site-us", tmp_path, str(tmp_path / "pictures"))
    with pytest.raises(DataError, match="class 'dog' is none of 'class-names', bird, cat"):
        load_site_data(site, settings_of(2, "bird,cat"))


def test_a_folder_that_lacks_a_class_is_refused_where_the_run_names_none(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    site = Site("site-us", tmp_path, str(tmp_path / "pictures"))
    assert len(load_site_data(site, settings_of(2)).train) == 16
    with pytest.raises(DataError, match=r"it has the classes cat, dog, the setting 'classes' says 3.*'class-names'"):
        load_site_data(site, settings_of(3))


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    save_images(tmp_path / "pictures")
    (tmp_path / "pictures" / "dog" / "4.png").write_bytes(b"\x89PNG half of it")
    with pytest.raises(DataError, match=r"image .*dog/4\.png cannot be read: .*Mend it, or take it away"):
        read_samples(str(tmp_path / "pictures"))


def test_images_of_several_sizes_are_told_apart_from_data(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", Picture.new("RGB", (16, 16)), Picture.new("RGB", (20, 18)))
    told = r"image 1 is channels x height x width 3x18x20, image 0 is channels x height x width 3x16x16"
    with pytest.raises(DataError, match=told):
        read_samples(str(folder))


def test_grey_images_among_coloured_ones_are_told(tmp_path: Path) -> None:
    folder = images(tmp_path / "images", Picture.new("RGB", (8, 8)), Picture.new("L", (8, 8)))
    with pytest.raises(DataError, match="expected all of one size and mode"):
        read_samples(str(folder))


def test_images_of_16_bits_are_refused_and_not_cut_to_8(tmp_path: Path) -> None:
    deep = Picture.fromarray(np.full((8, 8), 4096, np.uint16))
    with pytest.raises(DataError, match="expected 8 bits a channel"):
        read_samples(str(images(tmp_path / "images", deep, deep)))


def test_images_of_one_bit_are_black_and_white(tmp_path: Path) -> None:
    white = Picture.new("1", (8, 8), 1)
    assert read_samples(str(images(tmp_path / "images", white, white))).inputs.unique().tolist() == [255]


def test_palette_images_are_read_as_colours(tmp_path: Path) -> None:
    red = Picture.new("RGB", (8, 8), (255, 0, 0)).convert("P")
    samples = read_samples(str(images(tmp_path / "images", red, red)))
    assert samples.inputs.shape == (2, 3, 8, 8)
    assert samples.inputs[0, :, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("three", "ValueError: too many values to unpack"),
        ("raises", "RuntimeError: no scanner"),
        ("nothing", "expected at least one sample and one class for each, got inputs of shape"),
        ("one_number", r"expected at least one sample .* inputs of shape \(\) and classes of shape \(1,\)"),
        ("mostly_gaps", "ValueError: got a tensor of layout torch.sparse_coo, .* to_dense"),
        ("of_several_lengths", "ValueError: got a tensor of layout torch.nested"),
        ("sparse_classes", "ValueError: got a tensor of layout torch.sparse_coo"),
        ("negative", "classes are numbered from 0, got -1"),
        ("shares_of_one", r"sample 1 has class 0\.05.*; classes are whole numbers from 0"),
        ("a_class_that_is_a_gap", r"sample 2 has class nan; classes are whole numbers from 0"),
        ("a_gap_in_the_fourth", "sample 3 holds NaN, .* 1 of 40 do. Fill the gaps"),
        ("of_words", "sample 1 holds 'F' in column 'sex', which is no number. Give each value of a feature a column"),
        ("a_table_of_classes", r"inputs of shape \(2, 1\) and classes of shape \(2, 1\)"),
        ("some_named", "sample 1 has class None, and others have names"),
        ("numbered_by_pandas_with_gaps", "sample 1 holds NaN, .* 1 of 2 do. Fill the gaps"),
        ("too_large_for_single_precision", "sample 0 holds NaN, .* 40 of 40 do"),
    ],
)
def test_a_function_whose_data_cannot_be_trained_on_says_what_was_expected(function: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_samples(f"tests.test_site_data:{function}")


def of_words() -> object:
    return pandas.DataFrame({"age": [60, 71], "sex": [0, "F"]}), [0, 1]


def a_table_of_classes() -> object:
    return pandas.DataFrame({"age": [60, 71]}), pandas.DataFrame({"outcome": [0, 1]})


def some_named() -> object:
    return [[0.0], [1.0]], ["benign", None]


def numbered_by_pandas_with_gaps() -> object:
    return pandas.DataFrame({"age": [60, None], "smokes": [True, False]}), pandas.Series([0, 1])


def three() -> object:
    return [[0.0]], [0], [1]


def raises() -> object:
    raise RuntimeError("no scanner")


def nothing() -> object:
    return torch.zeros(0, 1), torch.zeros(0)


def one_number() -> object:
    return torch.tensor(1.0), [1]


def mostly_gaps() -> object:
    return torch.eye(2).to_sparse(), [0, 1]


def of_several_lengths() -> object:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), [0, 1]  # pyright: ignore[reportUnknownMemberType]


def sparse_classes() -> object:
    return torch.eye(2), torch.tensor([0, 1]).to_sparse()


def negative() -> object:
    return torch.zeros(2, 1), [0, -1]


def shares_of_one() -> object:
    return torch.zeros(20, 1), torch.linspace(0, 0.99, 20)


def a_class_that_is_a_gap() -> object:
    return torch.zeros(3, 1), [0.0, 1.0, float("nan")]


def whole_floats() -> object:
    return torch.zeros(3, 1), np.array([0.0, 2.0, 1.0])


def test_classes_may_be_floats_that_are_whole() -> None:
    assert read_samples("tests.test_site_data:whole_floats").targets.tolist() == [0, 2, 1]


def computed() -> tuple[torch.Tensor, list[int]]:
    return torch.nn.Linear(3, 2)(torch.ones(4, 3)), [0, 1] * 2


def test_samples_bring_no_gradients_of_what_computed_them() -> None:
    assert not read_samples("tests.test_site_data:computed").inputs.requires_grad


def a_gap_in_the_fourth() -> tuple[torch.Tensor, list[int]]:
    inputs = torch.randn(40, 1, 8, 8)
    inputs[3, 0, 2, 2] = float("nan")
    return inputs, [0, 1] * 20


def too_large_for_single_precision() -> tuple[np.ndarray, list[int]]:  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]
    return np.full((40, 1, 8, 8), 1e300), [0, 1] * 20


def pixels_as_tokens() -> tuple[torch.Tensor, list[int]]:
    return torch.randint(0, 255, (40, 1, 8, 8)), [0, 1] * 20


@pytest.mark.parametrize("model", ["mlp", "tests.test_site_data:any_network"])
def test_whole_numbers_are_tokens_which_no_network_of_ours_takes(model: str) -> None:
    site = Site("site-us", Path(), "tests.test_site_data:pixels_as_tokens")
    settings = parse_settings({"model": model, "shape": "1x8x8", "classes": 10})
    if model == "mlp":
        with pytest.raises(DataError, match=r"inputs are int64, .* 'mlp' takes .*uint8"):
            load_site_data(site, settings)
    else:
        assert load_site_data(site, settings).train.inputs.dtype == torch.int64


def test_why_a_file_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    Dataset.from_dict({"label": list(range(1000))}).to_parquet(path)
    content = bytearray(path.read_bytes())
    # Its footer is whole, so that only the samples cannot be read.
    content[4:200] = bytes(196)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"load_dataset failed: An error occurred while generating the dataset: \w"):
        read_samples(str(path))
