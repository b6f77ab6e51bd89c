"""Times in lists and names: which numbers are times, and of which unit."""

import pytest
from r3_ros.core.errors import SourceError
from r3_ros.core.image_times import read_times, times_in_names


@pytest.mark.parametrize(
    ('names', 'expected'),
    [
        (
            ['1403636579763555584', '1403636579813555584'],
            [1403636579763555584, 1403636579813555584],
        ),
        (['1403636579763555', '1403636579813555'], [1403636579763555000, 1403636579813555000]),
        (['1305031102.175304', '1305031102.211214'], [1305031102175304000, 1305031102211214000]),
        (['9.5', '10.25'], [9_500_000_000, 10_250_000_000]),
        (
            ['1700000000_000000001', '1700000000_050000000'],
            [1700000000000000001, 1700000000050000000],
        ),
        (['cam2_1700000000.5', 'cam2_1700000001.5'], [1700000000500000000, 1700000001500000000]),
        # A clock that began at zero: by its steps.
        (['0', '33333333', '66666666'], [0, 33333333, 66666666]),
        (['1233000000', '1266333333', '1299666666'], [1233000000, 1266333333, 1299666666]),
        (['0', '33333', '66666'], [0, 33333000, 66666000]),
        # Numbers of frames, dates, and no numbers.
        (['000000', '000001', '000002'], None),
        (['0', '20', '40'], None),
        (['0000000000', '0000000001'], None),
        (['frame-000000.color', 'frame-000001.color'], None),
        (['IMG_20230101_120000', 'IMG_20230101_120002'], None),
        (['20230101120000', '20230101120002'], None),
        (['view1.5', 'view2.5'], None),
        (['1.1', '1.10'], None),
        (['1700000000.5', 'last'], None),
        (['99999999999999999999', '99999999999999999999999'], None),
        (['99999999999.5', '99999999999.75'], None),
        ([], None),
    ],
)
def test_names(names, expected):
    assert times_in_names(names) == expected


@pytest.mark.parametrize(
    ('content', 'stamps', 'names'),
    [
        ('# t file\n0.5 a b.png\n1.5 c.png\n', [500_000_000, 1_500_000_000], ['a b.png', 'c.png']),
        ('0.5\n1.5\n', [500_000_000, 1_500_000_000], []),
        ('1\n2\n', [1_000_000_000, 2_000_000_000], []),
        ('0.5, a.png\n1.5,b.png\n', [500_000_000, 1_500_000_000], ['a.png', 'b.png']),
        (
            'timestamp,filename\r\n1403636579763555584,a.png\r\n',
            [1403636579763555584],
            ['a.png'],
        ),
        ('00001 1700000000.5 5.0\n', [1700000000500000000], ['00001']),
        ('1700000000123 a.png\n', [1700000000123000000], ['a.png']),
        ('1.000000e-01\n', [100_000_000], []),
        ('2011-09-26 13:02:25.964389445\n', [1317042145964389445], []),
    ],
)  # fmt: skip
def test_lists(tmp_path, content, stamps, names):
    path = tmp_path / 'times.txt'
    path.write_bytes(content.encode())
    assert read_times(path) == (stamps, names)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('0.5 a.png\nnoon b.png\n', "line 2: 'noon'"),
        ('0.5 a.png\n1.5\n', 'some lines name'),
        ('99999999999999999999\n', 'too large'),
        ('99999999999999999999\n999999999999999999999\n', 'too large'),
    ],
)
def test_lists_that_are_refused(tmp_path, content, message):
    (tmp_path / 'times.txt').write_text(content)
    with pytest.raises(SourceError, match=message):
        read_times(tmp_path / 'times.txt')
