"""Engines themselves: a Dask cluster whose workers and drivers are killed, Ray Data, and Spark."""

import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import parallel_config
from killed_drivers import PYTHONPATH, kill_driver
from mean_colour import MeanColour
from numpy.typing import NDArray
from PIL import Image
from worker_embedders import Heavy, KillsItsProcess, Noted, NotesThreads, Refuses, counts, notes

from imgembed import (
    CNNEmbedder,
    EmbedBatch,
    HOGEmbedder,
    ImageReadError,
    SIFTEmbedder,
    WorkersLostError,
    embed_dataset,
)

Pixels = NDArray[np.uint8]

# What Dask, Ray and Spark warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def images(make_noise: Callable[..., Pixels]) -> list[Pixels]:
    return [make_noise(seed, 60, 80) for seed in range(24)]


@contextmanager
def dask_cluster(n_workers: int) -> Iterator[Any]:
    """A client of a cluster of this computer; all its processes are gone in the end."""
    distributed = pytest.importorskip("distributed")
    with (
        tempfile.TemporaryDirectory() as folder,
        distributed.LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client
        processes = list(client.run(os.getpid).values())
    end = time.monotonic() + 10
    while any(map(is_alive, processes)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not [process for process in processes if is_alive(process)]


def on(client: Any) -> Any:
    """joblib's context for a cluster."""
    return parallel_config(backend="dask", client=client)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with dask_cluster(2) as client:
        yield client


@pytest.fixture
def dask(client: Any) -> Iterator[Any]:
    """The cluster of the module, which joblib is told of."""
    with on(client):
        yield client


@contextmanager
def worker_killed(client: Any, folder: Path, n_embedded: int) -> Iterator[None]:
    """Kill a worker when so many images have been embedded."""
    victims = iter(client.run(os.getpid).values())
    driver = os.getpid()
    killed: list[int] = []

    def kill() -> None:
        while counts(folder, but=driver)[1] < n_embedded:
            time.sleep(0.01)
        killed.append(next(victims))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    yield
    thread.join(5)
    assert killed, "the work was done before a worker was killed"


@pytest.mark.cluster
@pytest.mark.usefixtures("dask")
@pytest.mark.parametrize("method", ["hog", "sift", "vlad", "network"])
def test_a_cluster_gives_the_vectors_of_one_process(method: str, images: list[Pixels]) -> None:
    options: dict[str, Any] = {"batch_size": 5, "progress": False}
    embedder: Any = {
        "hog": HOGEmbedder(**options),
        "sift": SIFTEmbedder(20, **options, random_state=0),
        "vlad": SIFTEmbedder(8, "vlad", **options, random_state=0),
        "network": CNNEmbedder("resnet10t", None, image_size=64, random_state=0, **options),
    }[method]
    with parallel_config(backend="threading"):
        wanted = embedder.fit_transform(images)
        fingerprint = embedder.fingerprint()
    np.testing.assert_allclose(embedder.transform(images), wanted, atol=1e-5)
    np.testing.assert_allclose(embedder.fit_transform(images), wanted, atol=1e-5)
    assert embedder.fingerprint() == fingerprint


@pytest.mark.cluster
@pytest.mark.usefixtures("dask")
def test_a_cluster_names_unreadable_images_as_one_process_does(
    images: list[Pixels], tmp_path: Path
) -> None:
    X: list[object] = [*images, b"broken", None, *images, "no/such/file.png"]
    embedder = HOGEmbedder(batch_size=4, progress=False)
    got, told = embedder.transform_with_errors(X)
    with pytest.raises(ImageReadError, match="in row 24 "):
        embedder.transform(X)
    with parallel_config(backend="threading"):
        vectors, errors = embedder.transform_with_errors(X)
    np.testing.assert_array_equal(got, vectors)
    assert {row: str(error) for row, error in told.items()} == {
        row: str(error) for row, error in errors.items()
    }
    assert [type(e.__cause__) for e in told.values()] == [
        type(e.__cause__) for e in errors.values()
    ]


@pytest.mark.cluster
@pytest.mark.usefixtures("dask")
def test_a_fault_in_a_worker_names_its_row(images: list[Pixels]) -> None:
    with pytest.raises(ZeroDivisionError, match="black") as caught:
        Refuses(batch_size=4).transform([*images, np.zeros((8, 8, 3), np.uint8)])
    assert "while preparing the image in row 24" in getattr(caught.value, "__notes__", [])


@pytest.mark.cluster
@pytest.mark.usefixtures("dask")
def test_a_worker_loads_once_and_takes_one_thread(images: list[Pixels], tmp_path: Path) -> None:
    embedder = NotesThreads(str(tmp_path), batch_size=1, n_jobs=-1)
    for _ in range(2):
        embedder.transform(images)
    loaded = [lines.count("loaded") for lines in notes(tmp_path).values()]
    assert loaded == [1] * len(loaded)
    threads = {line for lines in notes(tmp_path).values() for line in lines if "thread" in line}
    assert threads, "nothing was noted"
    assert not [name for name in threads if "imgembed" in name]


@pytest.mark.cluster
@pytest.mark.usefixtures("dask")
def test_large_images_and_a_large_embedder_travel(tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(0, 256, (3, 2000, 2000, 3), dtype=np.uint8)
    got = Heavy(str(tmp_path), batch_size=1).transform(X)
    with parallel_config(backend="threading"):
        np.testing.assert_array_equal(got, MeanColour().transform(X))


@pytest.mark.cluster
def test_a_task_of_the_cluster_may_use_the_cluster(dask: Any, images: list[Pixels]) -> None:
    def transform_inside(images: list[Pixels]) -> Any:
        with parallel_config(backend="dask"):
            return HOGEmbedder(batch_size=4, progress=False).transform(images)

    futures = [dask.submit(transform_inside, images, pure=False) for _ in range(3)]
    with parallel_config(backend="threading"):
        wanted = HOGEmbedder(progress=False).transform(images)
    for vectors in dask.gather(futures):
        np.testing.assert_array_equal(vectors, wanted)


@pytest.mark.cluster
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_killed_worker_is_survived(n_workers: int, images: list[Pixels], tmp_path: Path) -> None:
    """With one worker, all that had been sent to the cluster is lost, and is sent again."""
    embedder = Heavy(str(tmp_path), seconds=0.05, batch_size=1)
    with dask_cluster(n_workers) as client, on(client):
        with worker_killed(client, tmp_path, n_embedded=6):
            vectors = embedder.transform(images)
        sift = SIFTEmbedder(20, progress=False, random_state=0, batch_size=2)
        np.testing.assert_allclose(sift.fit_transform(images), sift.transform(images), atol=1e-6)
    np.testing.assert_array_equal(vectors, MeanColour().transform(images))


@pytest.mark.cluster
def test_a_dataset_is_whole_although_a_worker_was_killed(
    images: list[Pixels], tmp_path: Path
) -> None:
    embedder = Noted(str(tmp_path), seconds=0.05, batch_size=1, on_error="nan")
    with dask_cluster(2) as client, on(client), worker_killed(client, tmp_path, n_embedded=6):
        dataset = embed_dataset(embedder, images, tmp_path / "out", batch_size=5)
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(images))


@pytest.mark.cluster
def test_an_image_that_kills_every_worker_is_named(images: list[Pixels], tmp_path: Path) -> None:
    for life in range(50):
        (tmp_path / f"life{life}").touch()
    X = [*images, np.zeros((60, 80, 3), np.uint8), *images]
    lost = pytest.raises(WorkersLostError, match="enough memory")
    with dask_cluster(2) as client, on(client), lost as caught:
        KillsItsProcess(str(tmp_path), batch_size=1).transform(X)
    spans = re.findall(r"(\d+) to (\d+)", str(caught.value))
    named = {row for first, last in spans for row in range(int(first), int(last) + 1)}
    assert 24 in named
    assert len(named) <= 4, "two for each worker"


DRIVER = """
import sys
import numpy as np
from distributed import Client
from joblib import parallel_config
from imgembed import embed_dataset
from worker_embedders import Noted
images = np.arange(200 * 12, dtype=np.uint8).reshape(200, 2, 2, 3)
with Client(sys.argv[3]), parallel_config(backend="dask"):
    print("ready", flush=True)
    embed_dataset(Noted(sys.argv[1], seconds=0.01), images, sys.argv[2], batch_size=5)
"""
N_KILLS = 20
# What may be under way: two chunks of two images for each of two threads, and parts of batches.
MOST_LOST = 2 * 2 * 2 + 3 * 5


@pytest.mark.cluster
def test_a_driver_killed_at_random_moments_loses_what_was_running(tmp_path: Path) -> None:
    moments = np.random.default_rng().uniform(0.0, 0.4, N_KILLS)
    out = tmp_path / "out"
    with dask_cluster(2) as client:
        for moment in moments:
            kill_driver(DRIVER, [str(tmp_path), str(out), client.scheduler.address], moment)
        X = np.arange(200 * 12, dtype=np.uint8).reshape(200, 2, 2, 3)
        with on(client):
            dataset = embed_dataset(Noted(str(tmp_path)), X, out, batch_size=5)
    np.testing.assert_array_equal(dataset.vectors, MeanColour().transform(X))
    dataset.verify()
    assert not list(out.glob("*.part"))
    n_embedded = counts(tmp_path, but=0)[1]
    assert n_embedded <= 200 + N_KILLS * MOST_LOST, f"killed after {moments} s"


@pytest.fixture
def paths(images: list[Pixels], tmp_path: Path) -> list[str]:
    paths = [tmp_path / f"{row:02}.png" for row in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return [str(path) for path in paths]


def assert_rows_are_embedded(rows: list[Any], paths: list[str], embedder: SIFTEmbedder) -> None:
    assert [row["image"] for row in rows] == paths
    got = np.stack([row["embedding"] for row in rows])
    np.testing.assert_allclose(got, embedder.transform(paths), atol=1e-6)


@pytest.mark.ray
def test_ray_data_embeds_batches(paths: list[str], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    ray_data = pytest.importorskip("ray.data")
    ray.init(
        address="local",
        _node_ip_address="127.0.0.1",
        num_cpus=2,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": PYTHONPATH}},
        log_to_driver=False,
    )
    try:
        embedder = SIFTEmbedder(20, progress=False, random_state=0).fit(paths)
        table = ray_data.from_items([{"image": path} for path in paths])
        embedded = table.map_batches(EmbedBatch(embedder), batch_size=5)
        rows = sorted(embedded.take_all(), key=lambda row: row["image"])
    finally:
        ray.shutdown()
    assert_rows_are_embedded(rows, paths, embedder)


@pytest.mark.spark
def test_spark_embeds_batches(paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pyspark_sql = pytest.importorskip("pyspark.sql")
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    embedder = SIFTEmbedder(20, progress=False, random_state=0).fit(paths)
    embed = EmbedBatch(embedder)

    def embed_frames(frames: Iterator[Any]) -> Iterator[Any]:
        return map(embed, frames)

    builder = pyspark_sql.SparkSession.builder.master("local[2]")
    for name, value in {"spark.ui.enabled": "false", "spark.driver.host": "127.0.0.1"}.items():
        builder = builder.config(name, value)
    spark = builder.getOrCreate()
    try:
        table = spark.createDataFrame([(path,) for path in paths], "image string")
        embedded = table.mapInPandas(embed_frames, "image string, embedding array<float>")
        rows = sorted(embedded.collect(), key=lambda row: row["image"])
    finally:
        spark.stop()
    assert_rows_are_embedded(rows, paths, embedder)
