"""Data sets from folders and objects: what is found, what is refused, and that views are what they should be."""

import io
import logging
import multiprocessing
import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file
from torch import nn

from aws_lottery import TrainingConfig, evaluate, recalibrate, train
from aws_lottery.data import CIFAR, IMAGENET, Augmentation, CorruptImageError, batches, load_data
from aws_lottery.data.augment import ATTEMPTS, center_box, padded_crop, resized_crop
from aws_lottery.data.cache import cached
from aws_lottery.data.columns import image_column, label_column
from aws_lottery.data.decode import Rows, as_rgb
from aws_lottery.data.fingerprint import fingerprint

CLASSES = ClassLabel(names=["dark", "light"])
FEATURES = Features({"img": Image(), "label": CLASSES})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()


def picture(seed, height=32, width=32, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return PILImage.fromarray(pixels // 2 + 128 * (seed % 2)).convert(mode)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    image.save(file, kind)
    return {"bytes": file.getvalue(), "path": f"some.{kind.lower()}"}


def split(count, first=0, **size):
    columns = {"img": [encoded(picture(i, **size)) for i in range(first, first + count)]}
    return Dataset.from_dict({**columns, "label": [i % 2 for i in range(first, first + count)]}, features=FEATURES)


def pair(**size):
    return DatasetDict(train=split(20, **size), test=split(9, 100, **size))


def epoch(part, size=5, seed=None):
    """Images and labels of an epoch."""
    loaded = list(batches(part, size, seed=seed))
    return torch.cat([x for x, _ in loaded]), torch.cat([y for _, y in loaded])


def original(part):
    """What the evaluation view of 32 x 32 images has to be, by PIL."""
    return torch.stack([torch.from_numpy(np.array(x)).permute(2, 0, 1) for x in part["img"]]).float() / 255


# --- what is found


@pytest.mark.parametrize("decoded", [True, False])
def test_a_parquet_folder_is_loaded_as_it_is(tmp_path, decoded):
    (tmp_path / "cifar10").mkdir()
    for name, part in pair().items():
        part.to_parquet(tmp_path / "cifar10" / f"{name}-0.parquet")
    data = load_data(tmp_path / "cifar10", decoded=decoded, workers=0)
    images, labels = epoch(data.test)
    mean, std = torch.tensor(data.mean)[:, None, None], torch.tensor(data.std)[:, None, None]
    assert (data.name, data.num_classes, data.image_size, len(data.train)) == ("cifar10", 2, 32, 20)
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert labels.tolist() == pair()["test"]["label"][:]
    torch.testing.assert_close(images * std + mean, original(pair()["test"]))


@pytest.mark.parametrize("decoded", [True, False])
def test_an_image_folder_of_all_kinds_of_files_is_rgb(tmp_path, decoded):
    kinds = {"L": "png", "P": "gif", "RGBA": "png", "CMYK": "jpg", "LA": "png", "1": "png", "RGB": "jpg"}
    for place in ("train/dark", "train/light", "validation/dark", "validation/light"):
        (tmp_path / place).mkdir(parents=True)
        for mode, kind in kinds.items():
            picture(0, mode=mode).save(tmp_path / place / f"{mode}.{kind}")
    data = load_data(tmp_path, decoded=decoded, workers=0)
    assert len(data.train) == len(data.test) == 2 * len(kinds)
    assert epoch(data.train, 7, seed=0)[0].shape == (14, 3, 32, 32)


def test_transparency_becomes_opaque_without_a_warning_and_deep_pixels_are_refused():
    grey = PILImage.new("P", (2, 2), 1)
    grey.putpalette([0, 0, 0, 10, 20, 30])
    grey.info["transparency"] = b"\x00\x00"
    assert as_rgb(grey).getpixel((0, 0)) == (10, 20, 30)
    with pytest.raises(ValueError, match="mode I;16 has more than 8 bits"):
        as_rgb(PILImage.new("I;16", (2, 2)))


def test_a_hub_id_goes_to_load_dataset_with_its_options(monkeypatch):
    asked = []

    def load_dataset(source, **options):
        asked.append((source, options))
        return pair()

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    data = load_data("uoft-cs/cifar100", revision="v1", workers=0)
    assert asked == [("uoft-cs/cifar100", {"revision": "v1"})]
    assert (data.name, data.train.augmentation, data.mean[0]) == ("cifar100", CIFAR, 0.5071)


def test_the_released_code_normalizes_cifar100_with_the_figures_of_cifar10(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda source: pair())
    data = load_data("uoft-cs/cifar100", protocol="released-code", workers=0)
    assert (data.mean, data.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert load_data("uoft-cs/cifar10", protocol="released-code", workers=0).std == (0.2470, 0.2435, 0.2616)
    with pytest.raises(ValueError, match=r"unknown protocol 'code' \(known: paper, released-code\)"):
        load_data("uoft-cs/cifar100", protocol="code")


def test_columns_are_found_by_type_and_then_by_name():
    cifar100 = Features({"img": Image(), "fine_label": CLASSES, "coarse_label": CLASSES})
    assert (image_column(cifar100), label_column(cifar100)) == ("img", "fine_label")
    assert label_column(cifar100, "coarse_label") == "coarse_label"
    assert label_column(Features({"id": Value("int64"), "labels": Value("int32")})) == "labels"


def test_unclear_columns_are_refused_with_what_there_is():
    features = Features({"left": Image(), "right": Image(), "kind": Value("string")})
    with pytest.raises(ValueError, match=r"none stands out among left: Image, right: Image, kind: string"):
        image_column(features)
    with pytest.raises(ValueError, match=r"label column: none found .*kind: string; give label=.*class_encode_column"):
        label_column(features)
    with pytest.raises(ValueError, match=r"'middle' won't do among left: Image"):
        image_column(features, "middle")


def test_the_test_split_is_the_one_with_labels():
    secret = split(3).map(lambda row: {"label": -1})
    data = load_data(DatasetDict(train=split(4), test=secret, validation=split(5)), workers=0)
    assert len(data.test) == 5


def test_splits_can_be_given_or_held_out():
    parts = DatasetDict(first=split(10), second=split(5))
    with pytest.raises(ValueError, match=r"'train' not found; there is first \(10 rows\), second \(5 rows\)"):
        load_data(parts)
    assert len(load_data(parts, train_split="first", test_split="second", workers=0).test) == 5
    with pytest.raises(ValueError, match=r"to measure on, there is train \(10 rows\); .*test_share=0.1"):
        load_data(split(10))
    halves = load_data(split(10), test_share=0.2, workers=0)
    assert (len(halves.train), len(halves.test)) == (8, 2)


def test_labels_out_of_range_and_streams_are_refused():
    with pytest.raises(ValueError, match=r"1 rows of split 'train' have a label outside 0 to 1, first row 3: -1"):
        load_data(
            DatasetDict(train=split(9).map(lambda row, i: {"label": -(i == 3)}, with_indices=True), test=split(3))
        )
    with pytest.raises(ValueError, match="IterableDatasetDict has no order to shuffle"):
        load_data(datasets.IterableDatasetDict(train=split(3).to_iterable_dataset()))


def test_the_way_is_chosen_by_size_and_said(caplog):
    caplog.set_level(logging.INFO)
    small, large = load_data(pair(), workers=0), load_data(pair(height=120, width=140), workers=0)
    limited = load_data(pair(), max_decoded_bytes=1000, workers=0)
    kinds = [type(data.train).__name__ for data in (small, large, limited)]
    assert kinds == ["DecodedSplit", "StreamedSplit", "StreamedSplit"]
    assert large.train.augmentation == IMAGENET
    assert "images of 32 x 32 pixels, 0.00 GB as 32 x 32: decoded once" in caplog.text
    assert "images of 120 x 140 pixels, 0.01 GB as 256 x 256: decoded for every batch" in caplog.text
    assert epoch(large.test)[0].shape == (9, 3, 224, 224)


def test_statistics_are_measured_where_none_are_published():
    data = load_data(pair(), workers=0)
    std, mean = torch.std_mean(original(pair()["train"]), dim=(0, 2, 3), correction=0)
    assert data.mean == pytest.approx(mean.tolist())
    assert data.std == pytest.approx(std.tolist())
    streamed = load_data(pair(), decoded=False, workers=0)
    assert (streamed.mean, streamed.std) == (data.mean, data.std)


# --- corrupt images


def with_broken(count=10, broken=(3, 4)):
    rows = [encoded(picture(i), "JPEG") for i in range(count)]
    for i in broken:
        rows[i] = {"bytes": rows[i]["bytes"][:500], "path": f"broken{i}.jpg"}
    part = Dataset.from_dict({"img": rows, "label": [i % 2 for i in range(count)]}, features=FEATURES)
    return DatasetDict(train=part, test=split(4))


@pytest.mark.parametrize("decoded", [True, False])
def test_a_corrupt_image_is_named(decoded):
    with pytest.raises(
        CorruptImageError, match=r"image 3 \(broken3.jpg\) of split 'train' can't be decoded: .*Truncated"
    ):
        epoch(load_data(with_broken(), decoded=decoded, workers=0).train)


def test_corrupt_images_are_skipped_when_asked(caplog):
    data = load_data(with_broken(), skip_corrupt=True, workers=0)
    assert epoch(data.train)[1].tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    assert "2 of 10 images of split 'train' skipped" in caplog.text
    assert "can't be written" not in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_the_next_readable_image_stands_in_for_a_corrupt_one_in_a_stream(workers):
    part = load_data(
        with_broken(), skip_corrupt=True, decoded=False, workers=workers, mean=(0,) * 3, std=(1,) * 3
    ).train
    images, labels = epoch(part)
    assert labels.tolist() == [0, 1, 0, 1, 1, 1, 0, 1, 0, 1]
    assert torch.equal(images[3], images[5])
    assert part.corrupt.nonzero().flatten().tolist() == [3, 4]


# --- views


def test_a_padded_crop_with_a_flip_is_the_naive_one():
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    draws = torch.rand(8, 3).tolist()
    padded = nn.functional.pad(images, (4, 4, 4, 4))
    for image, (flip, top, left), view in zip(padded, draws, CIFAR(images, draws), strict=True):
        naive = image[:, int(top * 9) : int(top * 9) + 32, int(left * 9) : int(left * 9) + 32]
        assert torch.equal(view, naive.flip(2) if flip < 0.5 else naive)


def test_padded_crops_reach_every_place_alike():
    corners = torch.arange(100).view(1, 1, 10, 10).expand(9000, 1, 10, 10)
    places = Counter(padded_crop(corners, 0, 8, torch.rand(9000, 2))[:, 0, 0, 0].tolist())
    assert set(places) == {0, 1, 2, 10, 11, 12, 20, 21, 22}
    assert min(places.values()) > 850


@pytest.mark.parametrize("box", [(0, 0, 64, 64), (3, 5, 40, 53), (10, 0, 54, 30), (63, 63, 1, 1)])
@pytest.mark.parametrize("size", [64, 48, 16])
def test_a_resized_crop_is_pils(box, size):
    image, (top, left, height, width) = picture(1, 64, 64), box
    pil = image.crop((left, top, left + width, top + height)).resize((size, size), PILImage.Resampling.BILINEAR)
    ours = resized_crop(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None], torch.tensor([box]), size)
    assert (ours[0].permute(1, 2, 0) - torch.from_numpy(np.array(pil)).float()).abs().max() < 1.01  # PIL rounds twice


def torchvision_box(height, width, scale, ratio, rng):
    """RandomResizedCrop.get_params, by its documentation."""
    for _ in range(10):
        area, aspect = height * width * rng.uniform(*scale), np.exp(rng.uniform(*np.log(ratio)))
        w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    return 0, 0, height, width


@pytest.mark.parametrize(("height", "width", "scale"), [(64, 64, (0.5, 1.0)), (200, 300, (0.08, 1.0))])
def test_resized_crops_are_distributed_as_torchvisions(height, width, scale):
    rules, rng, count = Augmentation(size=8, scale=scale), np.random.default_rng(0), 4000
    ours = np.array([rules.box(height, width, row) for row in rng.random((count, 3 + 2 * ATTEMPTS)).tolist()])
    theirs = np.array([torchvision_box(height, width, scale, rules.ratio, rng) for _ in range(count)])
    assert (ours[:, :2] + ours[:, 2:] <= [height, width]).all()
    for column in range(4):
        places = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        shares = [(values[:, column, None] <= places).mean(0) for values in (ours, theirs)]
        assert np.abs(shares[0] - shares[1]).max() < 1.63 * np.sqrt(2 / count)  # Kolmogorov-Smirnov at 1 %


def test_where_no_box_fits_the_largest_in_the_center_is_taken():
    rules, draws = Augmentation(size=8, scale=(1.0, 1.0)), [0.0, 0.5, 0.5] + [1.0, 0.0] * ATTEMPTS
    assert rules.box(30, 90, draws) == (0, 25, 30, 40)
    assert rules.box(90, 30, draws) == (25, 0, 40, 30)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (431, 290), (256, 256), (100, 90)])
def test_evaluation_is_resize_256_and_center_crop_224(height, width):
    image, scale = picture(0, height, width), 256 / min(height, width)
    resized = image.resize((int(width * scale), int(height * scale)), PILImage.Resampling.BILINEAR)
    left, top = round((resized.width - 224) / 2), round((resized.height - 224) / 2)
    expected = np.array(resized.crop((left, top, left + 224, top + 224))).astype(int)
    part = Dataset.from_dict({"img": [encoded(image)]}).cast_column("img", Image(decode=False))
    ours = Rows(part, "img", "", "").pixels(0, lambda h, w: center_box(h, w, 256, 224), 224, draft=False)
    assert np.abs(ours - expected).max() <= 1


def test_jpegs_decoded_at_a_fraction_stay_close():
    smooth = picture(0, 8, 8).resize((640, 480), PILImage.Resampling.BICUBIC)
    part = Dataset.from_dict({"img": [encoded(smooth, "JPEG")]}).cast_column("img", Image(decode=False))
    whole, drafted = (
        Rows(part, "img", "", "").pixels(0, lambda h, w: (31, 17, 400, 500), 64, draft=draft).astype(int)
        for draft in (False, True)
    )
    assert 0 < np.abs(whole - drafted).max() <= 8


# --- order


@pytest.mark.parametrize("augmentation", [CIFAR, Augmentation(size=32, scale=(0.5, 1.0))])
def test_views_depend_on_seed_and_epoch_alone(augmentation):
    options = {"augmentation": augmentation, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    part = load_data(pair(), workers=0, **options).train
    streamed = load_data(pair(), decoded=False, workers=2, **options).train
    loader = batches(part, 5, seed=1)
    first, second = [torch.cat([x for x, _ in loader]) for _ in range(2)]
    torch.manual_seed(99)
    assert torch.equal(epoch(part, seed=1)[0], first)
    assert torch.equal(epoch(part, 10, seed=1)[0], first)
    assert not torch.equal(second, first)
    assert not torch.equal(epoch(part, seed=2)[0], first)
    loader.sampler.set_epoch(1)
    assert torch.equal(torch.cat([x for x, _ in loader]), second)
    difference = (epoch(streamed, seed=1)[0] - first).abs()  # where a box is resized, PIL looks a pixel beyond it
    assert difference.max() == 0 if augmentation.padding else difference.mean() < 0.1


@pytest.mark.parametrize("decoded", [True, False])
def test_two_processes_share_the_batches_of_one(decoded):
    data = load_data(pair(), decoded=decoded, workers=0, mean=(0.5,) * 3, std=(0.25,) * 3)
    for part, seed in ((data.train, 3), (data.test, None)):
        shards = [
            prepare_data_loader(
                batches(part, 6, seed=seed),
                "cpu",
                num_processes=2,
                process_index=i,
                split_batches=True,
                put_on_device=True,
            )
            for i in range(2)
        ]
        for _ in range(2):  # epochs
            halves = [torch.cat(batch) for batch in zip(*([x for x, _ in shard] for shard in shards), strict=True)]
            loaded = torch.cat(halves)[: len(part)]
            assert loaded.flatten(1).unique(dim=0).shape[0] == (18 if seed else 9)
        single = batches(part, 6, seed=seed)
        list(single)
        assert torch.equal(torch.cat([x for x, _ in single]), loaded)


def test_workers_of_an_epoch_end_with_it():
    """Those of a training of many epochs, and of many evaluations, would be hundreds."""
    data = load_data(pair(), decoded=False, workers=1, mean=(0.5,) * 3, std=(0.25,) * 3)
    model, accelerator, workers = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)), Accelerator(cpu=True), []
    train(
        model,
        data.train,
        TrainingConfig(epochs=3, batch_size=20),
        accelerator=accelerator,
        seed=0,
        on_step=lambda training: workers.append(len(multiprocessing.active_children())),
    )
    evaluate(model, data.test, accelerator=accelerator)
    assert workers == [1, 1, 1]
    assert not multiprocessing.active_children()


# --- the cache


def test_a_second_run_reads_what_the_first_decoded(tmp_path, monkeypatch):
    first = epoch(load_data(pair(), cache_dir=tmp_path, workers=0).train)
    monkeypatch.setattr("aws_lottery.data.load.decode_all", lambda *_, **__: pytest.fail("decoded again"))
    assert torch.equal(epoch(load_data(pair(), cache_dir=tmp_path, workers=0).train)[0], first[0])
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        load_data(DatasetDict(train=split(21), test=split(9)), cache_dir=tmp_path, workers=0)


@pytest.mark.parametrize("fault", ["truncated", "flipped", "empty"])
def test_a_broken_cache_is_made_again(tmp_path, caplog, fault):
    load_data(pair(), cache_dir=tmp_path, workers=0)
    path = next(tmp_path.glob("*train*.safetensors"))
    good = path.read_bytes()
    bad = {"truncated": good[:-100], "flipped": good[:-5000] + bytes([good[-5000] ^ 1]) + good[-4999:], "empty": b""}
    path.write_bytes(bad[fault])
    images = load_data(pair(), cache_dir=tmp_path, workers=0).train.images
    assert "made again" in caplog.text
    assert len(path.read_bytes()) == len(good)
    assert torch.equal(load_file(path)["images"], images)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", ["../../outside", "/outside", "..", "a/../../outside", "x" * 300, "a\0b"])
def test_a_data_set_s_name_never_leads_out_of_the_cache(tmp_path, name):
    (tmp_path / "a" / "cache").mkdir(parents=True)
    cached(tmp_path / "a" / "cache", name, {}, lambda: {"x": torch.ones(1)})
    (file,) = (path for path in tmp_path.rglob("*") if path.suffix == ".safetensors")
    assert file.parent == tmp_path / "a" / "cache"


def test_half_files_of_killed_processes_are_removed(tmp_path):
    cached(tmp_path, "data", {}, lambda: {"x": torch.ones(1)})
    (file,) = tmp_path.glob("*.safetensors")
    file.with_suffix(".12345.tmp").write_bytes(b"half")
    cached(tmp_path, "data", {}, lambda: {"x": torch.ones(1)})
    assert list(tmp_path.glob("*.tmp")) == []


@pytest.mark.parametrize("decoded", [True, False])
def test_fingerprints_tell_labels_pixels_and_preparation_apart(decoded):
    def of(parts, **options):
        return fingerprint(load_data(parts, decoded=decoded, workers=0, **options).train)

    first = of(pair())
    assert first == of(pair())
    relabelled = DatasetDict(pair())
    relabelled["train"] = relabelled["train"].map(lambda row: {"label": 1 - row["label"]})
    assert (
        len({first, of(relabelled), of(DatasetDict(train=split(20, 50), test=split(9))), of(pair(), mean=(0,) * 3)})
        == 4
    )


def test_empty_splits_and_shares_out_of_range_are_refused():
    with pytest.raises(ValueError, match="split 'train' has no rows"):
        load_data(DatasetDict(train=split(20).select([]), test=split(9)))
    with pytest.raises(ValueError, match="split 'test' has no rows"):
        load_data(DatasetDict(train=split(20), test=split(9).select([])), test_split="test")
    with pytest.raises(ValueError, match=r"test_share must be between 0 and 1, got 1\.5"):
        load_data(split(20), test_share=1.5)


def test_processes_that_want_the_same_file_take_turns(tmp_path):
    made = []

    def build():
        made.append(True)
        time.sleep(0.2)
        return {"x": torch.ones(3)}

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: cached(tmp_path, "x", {}, build), range(4)))
    assert len(made) == 1
    assert [each["x"].tolist() for each in found] == [[1, 1, 1]] * 4


def test_a_batch_that_can_never_be_full_is_refused():
    with pytest.raises(ValueError, match="batch_size=21 is more than there is, 20 images"):
        batches(load_data(pair(), workers=0).train, 21, seed=0)


def test_without_a_writable_folder_nothing_is_cached(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert len(load_data(pair(), cache_dir=tmp_path / "file", workers=0).train) == 20
    assert "nothing is cached" in caplog.text


# --- training


@pytest.mark.parametrize("decoded", [True, False])
def test_a_network_learns_from_it(decoded):
    data = load_data(pair(), decoded=decoded, workers=0)
    model = nn.Sequential(nn.AvgPool2d(32), nn.Flatten(), nn.BatchNorm1d(3), nn.Linear(3, 2))
    accelerator = Accelerator(cpu=True)
    train(model, data.train, TrainingConfig(epochs=8, batch_size=5), accelerator=accelerator, seed=0)
    recalibrate(model, batches(data.train, 5, seed=0))
    assert evaluate(model, data.test, accelerator=accelerator, batch_size=4) == 100


@pytest.mark.gpu
@pytest.mark.parametrize("augmentation", [CIFAR, Augmentation(size=32, scale=(0.5, 1.0))])
def test_views_on_a_gpu_are_those_of_the_cpu(augmentation):
    data = load_data(pair(), workers=0, augmentation=augmentation)
    there = epoch(data.to("cuda").train, seed=0)[0]
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), epoch(data.train, seed=0)[0])


REAL = os.environ.get("AWS_LOTTERY_DATA", "")


@pytest.mark.slow
@pytest.mark.skipif(not Path(REAL).is_dir() or not REAL, reason="AWS_LOTTERY_DATA names no folder with a data set")
def test_real_data_is_the_same_by_both_ways(tmp_path):
    kept = load_data(REAL, cache_dir=tmp_path, decoded=True)
    streamed = load_data(REAL, decoded=False, mean=kept.mean, std=kept.std)
    for (images, labels), (again, labels_again), _ in zip(
        batches(kept.test, 128), batches(streamed.test, 128), range(10), strict=False
    ):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
        assert images.std().item() == pytest.approx(1, abs=0.3)
