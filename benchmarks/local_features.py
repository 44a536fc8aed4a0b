"""Local features: how well they find the right image, how fast, and in how much memory.

    python benchmarks/local_features.py [--images ../shared/data] [--only PART] [--n-runs 5]

Parts: ``accuracy`` (codebooks and rerankers see database images only), ``speed`` (each figure a
ratio to a named baseline, both measured in turn in this run; medians) and ``memory`` (the peak
of a process that learns a codebook). Beside each figure stands the bound that it should keep.

Needs faiss-cpu, the baseline of exact search.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import faiss
import hnswlib
import numpy as np
from numpy.typing import NDArray
from quality import measure, read_set
from sklearn.base import clone
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from imgembed import (
    VLAD,
    AKAZEExtractor,
    BagOfVisualWords,
    FisherVector,
    GeometricReranker,
    HOGEmbedder,
    LocalFeatures,
    NearestNeighborIndex,
    ORBExtractor,
    SIFTEmbedder,
    SIFTExtractor,
    VisualVocabulary,
    read_image,
)
from imgembed.classical import LocalFeatureExtractor
from imgembed.evaluation import mean_average_precision, precision_at_k

Descriptors = NDArray[np.uint8]
Features = list[LocalFeatures]

N_WORDS = 4096
CODEBOOKS = (1000, 4096, 16_384)
N_KEYPOINTS = 1000
LONGEST_EDGE = 512
INSTANCE_SETS = ("smvs_dvd", "beer_labels", "copies_corel")
N_VERIFIED = 20
N_CANDIDATES = 50


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", choices=("accuracy", "speed", "memory"))
    parser.add_argument("--n-runs", type=int, default=5)
    arguments = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "accuracy": lambda: measure_accuracy(arguments.images),
        "speed": lambda: measure_speed(arguments.images, arguments.n_runs),
        "memory": lambda: measure_memory(arguments.images),
    }
    for name, run in parts.items():
        if arguments.only in (None, name):
            print(f"\n== {name}", flush=True)
            run()


def report(what: str, figure: str, bound: str = "") -> None:
    """Print a figure, and the bound that it should keep."""
    print(f"{what:68}{figure:>22}{bound:>14}", flush=True)


# Accuracy.


def measure_accuracy(images: Path) -> None:
    """Every method on every set: mean average precision and precision at 1."""
    settings = f"{N_KEYPOINTS} keypoints at {LONGEST_EDGE} px, cosine"
    report(settings, "mAP     P@1")
    for name in INSTANCE_SETS:
        measure_instances(images / name)
    measure_categories(images / "corel1k")


def measure_instances(folder: Path) -> None:
    """Bags of words on a set of instances, with and without verification."""
    paths, groups, is_query = read_set(folder, "groups.csv", "group")
    roots = extract(SIFTExtractor, paths)
    plain = extract(SIFTExtractor, paths, rootsift=False)
    variants: dict[str, tuple[Features, dict[str, Any]]] = {
        "SIFT, counts": (plain, {"tf": "count", "idf": False}),
        "SIFT, tf-idf of roots": (plain, {}),
        "RootSIFT, counts": (roots, {"tf": "count", "idf": False}),
        "RootSIFT, tf-idf of counts": (roots, {"tf": "count"}),
        "RootSIFT, tf-idf of roots, 3 nearest words": (roots, {"n_nearest": 3}),
        "ORB, tf-idf of roots": (extract(ORBExtractor, paths), {}),
        "AKAZE, tf-idf of roots": (extract(AKAZEExtractor, paths), {}),
    }
    for variant, (features, weights) in variants.items():
        vectors = bags(features, is_query, N_WORDS, **weights)
        show(f"{folder.name}: {N_WORDS} words, {variant}", measure(vectors, groups, is_query))
    gallery = [path for path, query in zip(paths, is_query, strict=True) if not query]
    extractor = SIFTExtractor(N_KEYPOINTS, LONGEST_EDGE, progress=False)
    reranker = GeometricReranker(N_VERIFIED, extractor=extractor).fit(gallery)
    for n_words in CODEBOOKS:
        vectors = bags(roots, is_query, n_words)
        name = f"{folder.name}: {n_words} words, RootSIFT, tf-idf of roots"
        show(name, measure(vectors, groups, is_query))
        verify(name, paths, groups, is_query, vectors, reranker)


def extract(kind: type[LocalFeatureExtractor], paths: list[Path], **parameters: Any) -> Features:
    """The features of images, with the settings of the benchmark."""
    extractor = kind(
        n_keypoints=N_KEYPOINTS, longest_edge=LONGEST_EDGE, progress=False, **parameters
    )
    found: Features = extractor.transform(paths)  # type: ignore[assignment]
    return found


def bags(
    features: Features, is_query: NDArray[np.bool_], n_words: int, **weights: Any
) -> NDArray[np.float32]:
    """Bags of words over a codebook of the database images."""
    words = VisualVocabulary(n_words, random_state=0)
    aggregator = BagOfVisualWords(words, **weights).fit(database(features, is_query))
    return aggregator.transform(features)  # type: ignore[no-any-return]


def database(features: Features, is_query: NDArray[np.bool_]) -> Features:
    """The features of the images that are not queries."""
    return [one for one, query in zip(features, is_query, strict=True) if not query]


def verify(
    name: str,
    paths: list[Path],
    groups: NDArray[np.str_],
    is_query: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    reranker: GeometricReranker,
) -> None:
    """The same ranking after verification of its first images."""
    queries = [path for path, query in zip(paths, is_query, strict=True) if query]
    index = NearestNeighborIndex(algorithm="exact").fit(vectors[~is_query])
    _, rows = index.kneighbors(vectors[is_query], int((~is_query).sum()))
    order, _ = reranker.rerank(queries, rows)
    rows = np.take_along_axis(rows, order, axis=1)
    relevant = groups[~is_query][rows] == groups[is_query][:, np.newaxis]
    scores = np.tile(-np.arange(rows.shape[1]), (len(queries), 1))
    quality = mean_average_precision(scores, relevant), precision_at_k(scores, relevant, 1)
    show(f"{name}, {N_VERIFIED} verified", quality)
    if name.startswith("copies_corel"):
        transforms = np.array([path.parent.name for path in queries])
        for transform in np.unique(transforms):
            chosen = transforms == transform
            first = precision_at_k(scores[chosen], relevant[chosen], 1)
            report(f"    {transform}", f"{first:.4f}", ">= .99")


def measure_categories(folder: Path) -> None:
    """Every aggregation on a set of categories."""
    paths, labels, is_query = read_set(folder, "labels.csv", "label")
    roots = extract(SIFTExtractor, paths)
    aggregators: dict[str, Any] = {
        f"BoVW, {N_WORDS} words": BagOfVisualWords(VisualVocabulary(N_WORDS, random_state=0)),
        "VLAD, 64 words": VLAD(VisualVocabulary(64, random_state=0)),
        "Fisher vectors, 64 Gaussians": FisherVector(64, random_state=0),
    }
    for name, aggregator in aggregators.items():
        vectors = aggregator.fit(database(roots, is_query)).transform(roots)
        show(f"{folder.name}: RootSIFT, {name}", measure(vectors, labels, is_query))
    for n_levels in (1, 3):
        vectors = HOGEmbedder(n_levels=n_levels, progress=False).transform(paths)
        show(f"{folder.name}: HOG, {n_levels} levels", measure(vectors, labels, is_query))


BOUNDS = {
    "smvs_dvd: 16384 words, RootSIFT, tf-idf of roots": ">= .90, .87",
    f"smvs_dvd: 16384 words, RootSIFT, tf-idf of roots, {N_VERIFIED} verified": ">=   , .985",
}


def show(what: str, quality: tuple[float, float]) -> None:
    """Print mean average precision and precision at 1."""
    report(what, "{:.4f}  {:.4f}".format(*quality), BOUNDS.get(what, ""))


# Speed.


def measure_speed(images: Path, n_runs: int) -> None:
    """Each part against its baseline."""
    paths = [path for name in ("corel1k", *INSTANCE_SETS[:2]) for path in files(images / name)]
    features = extract(SIFTExtractor, paths)
    descriptors = np.concatenate([one.descriptors for one in features])
    descriptors = descriptors[np.random.default_rng(0).permutation(len(descriptors))]
    print(f"{len(paths)} images, {len(descriptors)} RootSIFT descriptors; {cv2.__version__=}")
    time_embedding(features, paths, n_runs)
    time_verification(files(images / "smvs_dvd"), n_runs)
    time_quantising(descriptors, n_runs)
    time_training(descriptors)


def files(folder: Path) -> list[Path]:
    """The images of a set."""
    file, column = ("labels.csv", "label") if folder.name == "corel1k" else ("groups.csv", "group")
    return read_set(folder, file, column)[0]


def time_training(descriptors: Descriptors) -> None:
    """A codebook of 4,096 words on 200,000 descriptors, against scikit-learn's KMeans."""
    learn, held_out = descriptors[:200_000], descriptors[200_000:240_000].astype(np.float32)
    ours = VisualVocabulary(N_WORDS, random_state=0)
    theirs = KMeans(N_WORDS, n_init=1, max_iter=10, random_state=0)
    points = learn.astype(np.float32)
    our_time = statistics.median(seconds(lambda: ours.fit(learn)) for _ in range(3))
    their_time = seconds(lambda: theirs.fit(points))
    errors = [error(held_out, words) for words in (ours.words_, theirs.cluster_centers_)]
    both = f"{their_time:.1f} / {our_time:.1f}"
    report(f"learn {N_WORDS} words: scikit-learn / ours, seconds", both)
    report("    how much faster", f"{their_time / our_time:.1f}", ">= 10")
    report("    held-out squared error, ours / theirs", f"{errors[0] / errors[1]:.4f}", "<= 1.02")


def error(points: NDArray[np.float32], words: NDArray[np.float32]) -> float:
    """The mean squared distance to the nearest word."""
    return float(flat(words).search(points, 1)[0].mean())


def flat(words: NDArray[np.float32]) -> Any:
    """Exact search by faiss."""
    index = faiss.IndexFlatL2(words.shape[1])
    index.add(np.ascontiguousarray(words, dtype=np.float32))
    return index


def time_quantising(descriptors: Descriptors, n_runs: int) -> None:
    """Images of 1,000 descriptors each to words, on one thread, against exact search."""
    n_threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    held_out = descriptors[-20_000:]
    tried = [np.ascontiguousarray(part) for part in np.split(held_out, 20)]
    learn = descriptors[:-20_000]
    with threadpool_limits(1):
        for n_words in (1024, N_WORDS, 16_384, 65_536):
            vocabulary = VisualVocabulary(n_words, random_state=0, n_jobs=-1).fit(learn)
            time_one_size(vocabulary, tried, held_out, n_runs)
    faiss.omp_set_num_threads(n_threads)


def time_one_size(
    vocabulary: VisualVocabulary, tried: list[Descriptors], held_out: Descriptors, n_runs: int
) -> None:
    """All ways of assigning words at one size of the codebook."""
    words = vocabulary.words_
    exact = flat(words)
    ways: dict[str, Callable[[Descriptors], Any]] = {
        "faiss flat": lambda one: exact.search(one.astype(np.float32), 1)[1],
        "ours": lambda one: vocabulary.predict(one),
        "hnswlib, ef 32": hnsw(words, 32),
    }
    times = in_turn({way: over(find, tried) for way, find in ways.items()}, n_runs)
    wanted = exact.search(held_out.astype(np.float32), 1)[1][:, 0]
    for way, find in ways.items():
        found = np.concatenate([find(one).ravel() for one in tried])
        figures = f"{1e6 * times[way] / len(held_out):.1f}  {np.mean(found == wanted):.4f}"
        report(f"quantise, {len(words)} words, {way}: us a descriptor, agreement", figures)
    if len(words) == N_WORDS:
        report("    ours / faiss flat", f"{times['ours'] / times['faiss flat']:.2f}", "<= 1.1")
    if len(words) == 65_536:
        report("    faiss flat / ours", f"{times['faiss flat'] / times['ours']:.1f}", ">= 4")


def hnsw(words: NDArray[np.float32], ef: int) -> Callable[[Descriptors], Any]:
    """A graph over the words."""
    graph = hnswlib.Index("l2", words.shape[1])
    graph.init_index(len(words), ef_construction=200, M=16, random_seed=0)
    graph.add_items(words)
    graph.set_ef(ef)
    graph.set_num_threads(1)
    return lambda one: graph.knn_query(one.astype(np.float32), 1)[0].astype(np.int64)


def time_embedding(features: Features, paths: list[Path], n_runs: int) -> None:
    """The whole of SIFTEmbedder.transform against SIFT alone, and threads against one."""
    tried = paths[:1000:10] + paths[1000::8]
    embedder = SIFTEmbedder(N_WORDS, progress=False, random_state=0).fit(paths[::3])
    bag = embedder.aggregator_
    some = features[:1000:10]
    times = in_turn(
        {
            "quantise": over(bag.vocabulary_.predict, some),
            "bag": over(bag.encode, some),
        },
        n_runs,
    )
    ratio = f"{times['bag'] / times['quantise']:.3f}"
    report("bag of words with quantising / quantising alone", ratio, "about 1")
    pixels = [read_image(path) for path in tried]
    one, two = (set_threads(embedder, n) for n in (1, 2))
    n_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # OpenCV's own threads would help one thread of ours
    times = in_turn(
        {
            "OpenCV": over(opencv_sift, pixels),
            "extractor": lambda: SIFTExtractor(n_jobs=1, progress=False).transform(tried),
            "one": lambda: one.transform(tried),
            "two": lambda: two.transform(tried),
        },
        n_runs,
    )
    cv2.setNumThreads(n_threads)
    for way, label in {
        "OpenCV": "cv2.SIFT alone, on pixels in memory",
        "extractor": "SIFTExtractor, from files",
        "one": "SIFTEmbedder, from files",
        "two": "SIFTEmbedder, from files, two threads",
    }.items():
        report(f"{label}: ms an image", f"{1000 * times[way] / len(tried):.1f}")
    report("    SIFTEmbedder / cv2.SIFT alone", f"{times['one'] / times['OpenCV']:.2f}", "<= 1.35")
    report("    one thread / two threads", f"{times['one'] / times['two']:.2f}", ">= 1.6")


def opencv_sift(image: NDArray[np.uint8]) -> None:
    """SIFT as everybody calls it, on one thread, at the working size of the embedder."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    cv2.SIFT_create(N_KEYPOINTS).detectAndCompute(grey, None)  # type: ignore[attr-defined]


def set_threads(embedder: SIFTEmbedder, n_jobs: int) -> SIFTEmbedder:
    """The same fitted embedder with another number of threads."""
    same: SIFTEmbedder = clone(embedder).set_params(n_jobs=n_jobs)
    same.aggregator_ = embedder.aggregator_
    return same


def time_verification(paths: list[Path], n_runs: int) -> None:
    """Verify 50 candidates of a query, against finding the features of that query."""
    gallery, queries = paths[:100], paths[100::20]
    extractor = SIFTExtractor(N_KEYPOINTS, LONGEST_EDGE, progress=False)
    reranker = GeometricReranker(N_CANDIDATES, extractor=extractor).fit(gallery)
    rows = np.random.default_rng(0).permutation(len(gallery))[np.newaxis, :N_CANDIDATES]
    pixels = [read_image(path) for path in queries]
    times = in_turn(
        {
            "extract": over(extractor.extract, pixels),
            "both": over(lambda image: reranker.rerank([image], rows), pixels),
        },
        n_runs,
    )
    extract, verify = times["extract"], times["both"] - times["extract"]
    both = f"{1000 * verify / len(queries):.0f} / {1000 * extract / len(queries):.0f}"
    report(f"verify {N_CANDIDATES} candidates / find features of the query, ms", both)
    report("    ratio", f"{verify / extract:.2f}", "< 5")


def over(function: Callable[[Any], Any], items: list[Any]) -> Callable[[], Any]:
    """A function of no argument that goes through the items."""
    return lambda: [function(item) for item in items]


def in_turn(ways: dict[str, Callable[[], Any]], n_runs: int) -> dict[str, float]:
    """The median seconds of each way, measured in turn after one run that does not count."""
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(n_runs):
        for way, run in ways.items():
            times[way].append(seconds(run))
    return {way: statistics.median(runs) for way, runs in times.items()}


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# Memory.

_CHILD = """
import resource, sys
sys.path.insert(0, {folder!r})
from local_features import stream
from imgembed import VisualVocabulary
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
next(stream({file!r}, 1))
before = peak()
vocabulary = VisualVocabulary({n_words}, random_state=0).fit(stream({file!r}, {n_images}))
print(vocabulary.n_descriptors_seen_, round(peak() - before))
"""


def measure_memory(images: Path) -> None:
    """The peak memory of learning, as the number of images grows."""
    features = extract(SIFTExtractor, files(images / "smvs_dvd")[:200])
    bound = 5 * 100 * N_WORDS * 128 / 2**20 + 150
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "descriptors.npy")
        np.save(file, np.concatenate([one.descriptors for one in features]))
        del features
        for n_images in (1000, 5000, 20_000):
            code = _CHILD.format(
                folder=str(Path(__file__).parent), file=str(file), n_images=n_images,
                n_words=N_WORDS,
            )  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            )
            n_seen, megabytes = done.stdout.split()
            what = f"learn {N_WORDS} words from {n_images} images, {n_seen} descriptors, MiB"
            report(what, megabytes, f"<= {bound:.0f}")


def stream(file: str, n_images: int) -> Iterator[Descriptors]:
    """Images of 1,000 descriptors, drawn from real ones and changed a little, none kept."""
    real = np.load(file, mmap_mode="r")
    rng = np.random.default_rng(0)
    for _ in range(n_images):
        drawn = real[rng.integers(0, len(real), N_KEYPOINTS)]
        noise = rng.integers(-4, 5, drawn.shape, dtype=np.int16)
        yield np.clip(drawn + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
