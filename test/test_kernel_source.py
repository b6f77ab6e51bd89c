"""The CUDA sources compile for every architecture that is supported, on a machine without one."""

import ctypes
import importlib.metadata
from pathlib import Path

import pytest
from r3_ros.kernels.kernel_retrieval import compiler_options, KERNEL_NAME, SOURCE_FILE

#: The compiler at run time, of CUDA 13 or 12.
PACKAGES = ('nvidia-cuda-nvrtc', 'nvidia-cuda-nvrtc-cu12')
ARCHITECTURES = ('sm_75', 'sm_80', 'sm_87', 'sm_90', 'sm_120')


def library_path():
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith('libnvrtc.so'):
                return Path(str(file.locate()))
    return None


@pytest.fixture(scope='module')
def nvrtc():
    path = library_path()
    if path is None:
        pytest.skip('nvidia-cuda-nvrtc is not installed')
    return ctypes.CDLL(str(path))


def compiled(nvrtc, source, options):
    """Return the machine code, or None, and what the compiler said."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    assert went_well(
        nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b'k.cu', 0, None, None)
    )
    arguments = [option.encode() for option in options]
    array = (ctypes.c_char_p * len(arguments))(*arguments)
    good = went_well(nvrtc.nvrtcCompileProgram(program, len(arguments), array))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    code = None
    if good:
        assert went_well(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        assert went_well(nvrtc.nvrtcGetCUBIN(program, buffer))
        code = buffer.raw
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return code, log.value.decode()


def went_well(status):
    """Tell whether a call went well."""
    return status == 0


@pytest.mark.parametrize('architecture', ARCHITECTURES)
def test_the_kernel_compiles(nvrtc, architecture):
    options = (*compiler_options(), f'--gpu-architecture={architecture}', '-Werror=all-warnings')
    code, log = compiled(nvrtc, SOURCE_FILE.read_bytes(), options)
    assert code is not None, log
    assert code.startswith(b'\x7fELF') and KERNEL_NAME.encode() in code
    assert 'warning' not in log, log


def test_a_wrong_kernel_does_not(nvrtc):
    source = SOURCE_FILE.read_bytes().replace(b'make_room(shared, k)', b'make_room(shared)')
    code, log = compiled(nvrtc, source, (*compiler_options(), '--gpu-architecture=sm_80'))
    assert code is None and 'make_room' in log
