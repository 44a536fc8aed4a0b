"""The libraries that peers.py compares, each used as its own documentation shows, with no network.

Where a library would download weights, a patched loader gives it those of peer_weights.py. Nothing
else of a library is touched.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest import mock

import numpy as np
from peer_weights import (
    Vectors,
    clip_checkpoint,
    our_network,
    photographs,
    shown_by,
    timm_offline,
    timm_poolings,
    timm_shown,
    timm_vector,
    torchvision_offline,
)
from PIL import Image


class NotApplicableError(Exception):
    """What a check looks at, a library does not have; the message says why."""


class Embedder:
    """What the checks ask of a library that embeds images; each says what it does not do."""

    networks: ClassVar[tuple[str, ...]] = ()
    rows_are_named = False  # whether the vectors of files come with the names of the files

    def __init__(self, network: str | None = None) -> None:
        self.network = network or self.networks[0]
        self.build()

    def build(self) -> None:
        raise NotImplementedError

    def embed(self, paths: Sequence[Path]) -> Vectors:
        """The vectors of a list of files, of shape (n_images, n_features)."""
        raise NotImplementedError

    def embed_alone(self, path: Path) -> Vectors:
        """The vector of one file, by what the library has for one image."""
        vector: Vectors = self.embed([path])[0]
        return vector

    def usual_distance(self, paths: Sequence[Path]) -> float:
        """The median distance between the vectors of different photographs."""
        if not hasattr(self, "_usual_distance"):
            vectors = self.embed(paths)
            first, second = np.triu_indices(len(vectors), 1)
            distances = np.linalg.norm(vectors[first] - vectors[second], axis=1)
            self._usual_distance = float(np.median(distances))
        return self._usual_distance

    def set_batch_size(self, batch_size: int) -> None:
        raise NotApplicableError("takes images one by one")

    def modules(self) -> list[Any]:
        """The networks at work."""
        raise NotImplementedError

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        """The vector of a vision transformer, and those that the network itself may give."""
        raise NotApplicableError("has no vision transformer")

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        """What a network is shown of an image of one colour, and what it was trained on."""
        raise NotImplementedError


class Imgembed(Embedder):
    networks = ("tf_efficientnet_lite0", "vit_tiny_patch16_224", "SIFT")

    def build(self) -> None:
        import imgembed

        self.embedder: Any
        if self.network == "SIFT":
            self.embedder = imgembed.SIFTEmbedder(n_words=50, random_state=0).fit(photographs())
        else:
            self.embedder = our_network(self.network)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        return cast(Vectors, self.embedder.transform(list(paths)))

    def set_batch_size(self, batch_size: int) -> None:
        self.embedder.set_params(batch_size=batch_size)

    def modules(self) -> list[Any]:
        return [self.embedder.backbone_]

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        ours = our_network("vit_tiny_patch16_224")
        return ours.transform([path])[0], timm_poolings("vit_tiny_patch16_224", path)

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        return self.embed_alone(path), timm_vector(self.network, path)


class Embetter(Embedder):
    networks = ("tf_efficientnet_lite0",)

    def build(self) -> None:
        from embetter.vision import ImageLoader, TimmEncoder

        with timm_offline():
            self.loader: Any = ImageLoader()
            self.encoder: Any = TimmEncoder(self.network)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        images = self.loader.fit_transform([str(path) for path in paths])
        return cast(Vectors, self.encoder.transform(images))

    def modules(self) -> list[Any]:
        return [self.encoder.model]

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        name = "vit_tiny_patch16_224"
        return type(self)(name).embed([path])[0], timm_poolings(name, path)

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        return timm_shown(self.network, self.encoder.transform_img, path)


class Img2Vec(Embedder):
    networks = ("resnet18", "vgg11", "densenet121", "efficientnet_b0")

    def build(self) -> None:
        from img2vec_pytorch.img_to_vec import Img2Vec as Theirs

        with torchvision_offline():
            self.theirs: Any = Theirs(model=self.network)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        return cast(Vectors, self.theirs.get_vec([Image.open(path) for path in paths]))

    def embed_alone(self, path: Path) -> Vectors:
        return cast(Vectors, self.theirs.get_vec(Image.open(path)))

    def set_batch_size(self, batch_size: int) -> None:
        raise NotApplicableError("the list is the batch")

    def modules(self) -> list[Any]:
        return [self.theirs.model]

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        import torchvision

        weights = torchvision.models.ResNet18_Weights.DEFAULT
        return shown_by(self.theirs.transforms, weights.transforms(), path)


class Imagededup(Embedder):
    networks = ("mobilenet_v3_small",)
    rows_are_named = True

    def build(self) -> None:
        from imagededup.methods import CNN

        with torchvision_offline():
            self.cnn: Any = CNN(verbose=False)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        with folder_of(paths) as folder:
            found = self.cnn.encode_images(image_dir=folder)
        return np.stack([found[name] for name in sorted(found)])

    def embed_alone(self, path: Path) -> Vectors:
        found = self.cnn.encode_image(image_file=path)
        if found is None:
            raise ValueError("encode_image returned None")
        return cast(Vectors, found[0])

    def set_batch_size(self, batch_size: int) -> None:
        self.cnn.batch_size = batch_size

    def modules(self) -> list[Any]:
        return [self.cnn.model]

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        import torch
        from imagededup.methods import CNN
        from imagededup.utils.models import CustomModel, ViT

        with torchvision_offline():
            vit: Any = ViT()
        cnn: Any = CNN(verbose=False, model_config=CustomModel("vit_b_16", vit, ViT.transform))
        got = cnn.encode_image(image_file=path)[0]
        with torch.no_grad():
            patches = vit.model._process_input(ViT.transform(Image.open(path))[None])
            tokens = vit.model.encoder(torch.cat([vit.model.class_token, patches], dim=1))
        return got, [tokens.mean(dim=1)[0].numpy(), tokens[0, 0].numpy()]

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        import torchvision

        weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
        return shown_by(self.cnn.transform, weights.transforms(), path)


class Pyvisim(Embedder):
    networks = ("ViT-B-32",)

    def build(self) -> None:
        from pyvisim.neural_networks import ClipEmbedder
        from pyvisim.neural_networks.clip import clip_embedder

        with (
            clip_checkpoint() as (self.reference, file),
            mock.patch.object(clip_embedder, "fetch_checkpoint", return_value=file),
        ):
            self.clip: Any = ClipEmbedder(self.network)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        from pyvisim.retrieval.image_store import InMemoryImageEmbeddingStore

        store = InMemoryImageEmbeddingStore([str(path) for path in paths], self.clip)
        store.build_store()
        return cast(Vectors, store.embeddings)

    def embed_alone(self, path: Path) -> Vectors:
        return cast(Vectors, self.clip.embed(np.asarray(Image.open(path)))[0])

    def set_batch_size(self, batch_size: int) -> None:
        self.clip.set_batch_size(batch_size)

    def modules(self) -> list[Any]:
        return [self.clip._model]

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        import torch

        with torch.no_grad():
            shown = self.clip._transform(Image.open(path))[None]
            wanted = self.reference.encode_image(shown, normalize=True)
        return self.embed_alone(path), [wanted[0].numpy()]

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        import torchvision
        from pyvisim.neural_networks.features import DeepConvFeature

        with torchvision_offline():
            feature: Any = DeepConvFeature("resnet18")
        weights = torchvision.models.ResNet18_Weights.DEFAULT
        return shown_by(feature.transform, weights.transforms(), path)


class DeepImageSearch(Embedder):
    networks = ("tf_efficientnet_lite0",)
    rows_are_named = True

    def build(self) -> None:
        from DeepImageSearch import TimmEmbedding

        with timm_offline():
            self.theirs: Any = TimmEmbedding(self.network)

    def embed(self, paths: Sequence[Path]) -> Vectors:
        from DeepImageSearch import FAISSStore, Indexer

        store: Any = FAISSStore(self.theirs.dimension)
        Indexer(self.theirs, store).index([str(path) for path in paths])
        return cast(Vectors, store.index.reconstruct_n(0, store.count()))

    def embed_alone(self, path: Path) -> Vectors:
        return cast(Vectors, self.theirs.embed_image(Image.open(path)))

    def set_batch_size(self, batch_size: int) -> None:
        self.theirs.batch_size = batch_size

    def modules(self) -> list[Any]:
        return [self.theirs.model]

    def of_transformer(self, path: Path) -> tuple[Vectors, Sequence[Vectors]]:
        name = "vit_tiny_patch16_224"
        return type(self)(name).embed_alone(path), timm_poolings(name, path)

    def as_shown(self, path: Path) -> tuple[Vectors, Vectors]:
        return timm_shown(self.network, self.theirs.preprocess, path)


EMBEDDERS: dict[str, type[Embedder]] = {
    "imgembed": Imgembed,
    "embetter": Embetter,
    "img2vec_pytorch": Img2Vec,
    "imagededup": Imagededup,
    "pyvisim": Pyvisim,
    "DeepImageSearch": DeepImageSearch,
}


@contextlib.contextmanager
def folder_of(paths: Sequence[Path]) -> Iterator[Path]:
    """A folder with copies of files, whose names sort them as given."""
    with tempfile.TemporaryDirectory() as folder:
        for row, path in enumerate(paths):
            shutil.copy(path, Path(folder, f"{row:03} {path.name}"))
        yield Path(folder)
