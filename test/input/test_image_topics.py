"""What names of image topics say, whoever asks: the node or the reader of bags."""

import pytest
from r3_ros.input.image_topics import base_topic, camera_info_topic, is_rectified


@pytest.mark.parametrize(
    'topic',
    [
        '/cam/image_rect',
        '/cam/image_rect/compressed',
        '/cam/image_rect_color/compressedDepth',
        '/cam/image_rect_raw/theora',
        '/cam/rect/ffmpeg',
        '/image_rectified',
    ],
)
def test_names_of_rectified_images(topic):
    assert is_rectified(topic)


@pytest.mark.parametrize(
    'topic',
    [
        '/cam/image_direct',
        '/cam/image_direct/compressed',
        '/rect/image_raw',
        '/cam/image_rect/left',
        '/cam/image_corrected',
        '/rectangle',
        '/compressed',
    ],
)
def test_names_of_other_images(topic):
    assert not is_rectified(topic)


def test_transports_are_forms_of_one_topic():
    assert base_topic('/cam/image/compressed') == base_topic('/cam/image') == '/cam/image'
    assert base_topic('/compressed') == '/compressed'
    assert camera_info_topic('/cam/image/compressed') == '/cam/camera_info'
    assert camera_info_topic('/image') == '/camera_info'
