"""Opens recorded input: a folder of images, a video or a bag."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import SourceError
from .calibration_files import load_camera
from .folder_source import BAG_SUFFIXES, FolderSource
from .source import Source

#: In place of a calibration file.
NO_CAMERA = 'none'


def open_source(
    path: Path | str,
    camera: Path | str | None = None,
    topic: str | None = None,
    collections: bool = False,
    encoding_hint: str = '',
) -> Source:
    """Open a folder of images, a video or a bag.

    :param camera: calibration file, in place of the one beside or inside the input; ``none``
        uses no calibration at all.
    :param topic: image topic of a bag; needed only if it has several.
    :param collections: see :class:`FolderSource`.
    :param encoding_hint: ``input.encoding_hint``, of the images in a bag.
    :raises SourceError: missing, empty, or of an unknown kind.
    :raises CalibrationError: the calibration cannot be used.
    """
    path = Path(path)
    try:
        source = _opened(path, camera is None, topic, collections, encoding_hint)
    except OSError as error:
        raise SourceError(f'cannot read {path}: {error.strerror or error}') from error
    if camera and str(camera) != NO_CAMERA:
        try:
            source.use_calibration(load_camera(camera, source.camera_name), Path(camera))
        except BaseException:
            source.close()
            raise
    return source


def _opened(
    path: Path, use_own_camera: bool, topic: str | None, collections: bool, encoding_hint: str
) -> Source:
    if not path.exists():
        raise SourceError(f'{path} does not exist')
    is_bag = path.suffix in BAG_SUFFIXES or (path / 'metadata.yaml').is_file()
    if topic and not is_bag:
        raise SourceError(f'{path} is no bag, so it has no topic {topic}')
    if is_bag:
        # rosbags takes a quarter of a second to import, av a tenth.
        from .bag_source import BagSource

        return BagSource(path, topic, use_own_camera, encoding_hint)
    if path.is_dir():
        return FolderSource(path, use_own_camera, collections)
    if path.suffix in ('.zst', '.zstd', '.gz', '.lz4', '.xz', '.bz2', '.zip'):
        raise SourceError(f'{path} is compressed: decompress it, and name the file inside')
    # For the reason of a failure, which FFmpeg does not give.
    with open(path, 'rb'):
        from .video_source import VideoSource

        return VideoSource(path)
