"""Opens recorded input: a folder of images, a video or a bag."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import SourceError
from .camera_model import load_camera_yaml
from .folder_source import BAG_SUFFIXES, FolderSource
from .source import Source


def open_source(
    path: Path | str,
    camera: Path | str | None = None,
    topic: str | None = None,
    collections: bool = False,
    encoding_hint: str = '',
) -> Source:
    """Open a folder of images, a video or a bag.

    :param camera: calibration file, in place of the one beside or inside the input.
    :param topic: image topic of a bag; needed only if it has several.
    :param collections: see :class:`FolderSource`.
    :param encoding_hint: ``input.encoding_hint``, of the images in a bag.
    :raises SourceError: missing, empty, or of an unknown kind.
    :raises CalibrationError: the calibration cannot be used.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise SourceError(f'{path} does not exist')
        is_bag = path.suffix in BAG_SUFFIXES or (path / 'metadata.yaml').is_file()
        if topic and not is_bag:
            raise SourceError(f'{path} is no bag, so it has no topic {topic}')
        model = load_camera_yaml(camera) if camera else None
        if is_bag:
            # rosbags takes a quarter of a second to import, av a tenth.
            from .bag_source import BagSource

            return BagSource(path, model, topic, camera is not None, encoding_hint)
        if path.is_dir():
            folder = FolderSource(path, model, camera is None, collections)
            # Lists made with os.listdir are in no order. Stable, for images at the same time.
            folder.entries.sort(key=lambda entry: entry[0])
            return folder
        if path.suffix in ('.zst', '.zstd', '.gz', '.lz4', '.xz', '.bz2', '.zip'):
            raise SourceError(f'{path} is compressed: decompress it, and name the file inside')
        # For the reason of a failure, which OpenCV does not give.
        with open(path, 'rb'):
            from .video_source import VideoSource

            return VideoSource(path, model)
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error.strerror or error}') from error
