"""PointCloud2 messages as structured NumPy arrays and back."""

from __future__ import annotations

import array
from collections.abc import Iterable, Sequence
import sys

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

_DATATYPES: dict[int, np.dtype[np.generic]] = {
    PointField.INT8: np.dtype(np.int8),
    PointField.UINT8: np.dtype(np.uint8),
    PointField.INT16: np.dtype(np.int16),
    PointField.UINT16: np.dtype(np.uint16),
    PointField.INT32: np.dtype(np.int32),
    PointField.UINT32: np.dtype(np.uint32),
    PointField.FLOAT32: np.dtype(np.float32),
    PointField.FLOAT64: np.dtype(np.float64),
}

#: Fields without a name get this prefix and their index.
DUMMY_FIELD_PREFIX = 'unnamed_field'


def read_points(
    cloud: PointCloud2,
    field_names: Sequence[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | None = None,
    reshape_organized_cloud: bool = False,
) -> NDArray[np.void]:
    """Read points as a structured array, a view of the message where nothing is left out.

    :param field_names: the fields to read; None reads all.
    :param skip_nans: leave out points with a NaN in any field read.
    :param uvs: indices of the points to read.
    :param reshape_organized_cloud: return an organised cloud as (width, height).
    """
    assert isinstance(cloud, PointCloud2), 'Cloud is not a sensor_msgs.msg.PointCloud2'
    points = np.ndarray(
        shape=(cloud.width * cloud.height,),
        dtype=dtype_from_fields(cloud.fields, point_step=cloud.point_step),
        buffer=cloud.data,
    )
    if field_names is not None:
        assert all(name in points.dtype.names for name in field_names), (
            'Requests field is not in the fields of the PointCloud!'
        )
        points = points[list(field_names)]
    if bool(cloud.is_bigendian) != (sys.byteorder != 'little'):
        points = points.byteswap()
    if skip_nans and not cloud.is_dense:
        keep = np.ones(len(points), dtype=bool)
        for name in points.dtype.names:
            keep &= ~np.isnan(points[name])
        points = points[keep]
    if uvs is not None:
        points = points[uvs if isinstance(uvs, np.ndarray) else np.fromiter(uvs, int)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.width, cloud.height)
    return points


def read_points_numpy(
    cloud: PointCloud2,
    field_names: Sequence[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | None = None,
    reshape_organized_cloud: bool = False,
) -> NDArray[np.generic]:
    """Read points whose fields are of one type as an array with a column per field."""
    first = cloud.fields[0]
    assert all(field.datatype == first.datatype for field in cloud.fields[1:]), (
        'All fields need to have the same datatype. Use `read_points()` otherwise.'
    )
    return structured_to_unstructured(
        read_points(cloud, field_names, skip_nans, uvs, reshape_organized_cloud)
    )


def dtype_from_fields(
    fields: Iterable[PointField], point_step: int | None = None
) -> np.dtype[np.void]:
    """Return the layout of one point; a field with a count becomes several, ``name_0`` and on.

    :param point_step: bytes of one point; None ends it with its last field.
    """
    names: list[str] = []
    offsets: list[int] = []
    formats: list[str] = []
    for i, field in enumerate(fields):
        datatype = _DATATYPES[field.datatype]
        assert field.count > 0, "Can't process fields with count = 0."
        name = field.name or f'{DUMMY_FIELD_PREFIX}_{i}'
        for k in range(field.count):
            names.append(f'{name}_{k}' if field.count > 1 else name)
            offsets.append(field.offset + k * datatype.itemsize)
            formats.append(datatype.str)
    assert len(set(names)) == len(names), 'Duplicate field names are not allowed!'
    layout: dict[str, object] = {'names': names, 'formats': formats, 'offsets': offsets}
    if point_step is not None:
        layout['itemsize'] = point_step
    return np.dtype(layout)  # type: ignore[call-overload, no-any-return]


def create_cloud(
    header: Header,
    fields: Sequence[PointField],
    points: Iterable[object],
    point_step: int | None = None,
) -> PointCloud2:
    """Make a cloud; its bytes are copied once, as a block.

    :param points: a structured array of the layout of ``fields``, (N,) or (width, height); an
        array with a column per field, if all are of one type; or an iterable of points.
    :param point_step: bytes of one point; None ends it with its last field.
    """
    dtype = dtype_from_fields(fields, point_step)
    if not isinstance(points, np.ndarray):
        points = np.array([tuple(point) for point in points], dtype=dtype)  # type: ignore[arg-type]
    elif points.dtype.names is None:
        assert all(field.datatype == fields[0].datatype for field in fields[1:]), (
            'All fields need to have the same datatype. Pass a structured NumPy array with '
            'multiple dtypes otherwise.'
        )
        points = unstructured_to_structured(points, dtype=dtype)
    else:
        assert points.dtype == dtype, (
            'PointFields and structured NumPy array dtype do not match for all fields! Check '
            'their field order, names and types.'
        )
    assert points.ndim <= 2, (
        'Too many dimensions for organized cloud! Points can only be organized in max. two '
        'dimensional space'
    )
    data = array.array('B')
    # Of an empty array no view of bytes can be made.
    data.frombytes(np.ascontiguousarray(points).data.cast('B') if points.size else b'')
    width = points.shape[0]
    cloud = PointCloud2(
        header=header,
        height=points.shape[1] if points.ndim == 2 else 1,
        width=width,
        is_dense=False,
        is_bigendian=sys.byteorder != 'little',
        fields=fields,
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * width,
    )
    # Not through the constructor, which would look at every byte.
    cloud.data = data
    return cloud


def create_cloud_xyz32(header: Header, points: Iterable[object]) -> PointCloud2:
    """Make a cloud of x, y, z as float32."""
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate('xyz')
    ]
    return create_cloud(header, fields, points)
