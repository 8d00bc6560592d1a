"""What wrong CUDA adapters are made of: a copy of `cuda` whose kernels are built from sources with one change."""

import shutil
import tempfile
from pathlib import Path

from kvconform.impls import cuda
from kvconform.impls.cuda_kernels import build, host, runtime
from kvconform.tests.wrong._source import changed, copy_of


def cuda_with(file, old, new):
    """A private copy of `cuda` on this CPU, also where there is a GPU: what is not synchronised shows here for certain.

    file   the source in which `old` becomes `new`; a kernel of one's own takes the place of its line in kernels.cu
    """
    with tempfile.TemporaryDirectory(prefix="kvconform-wrong-") as name:
        folder = Path(name)
        for path in build.SOURCES.glob("*.cu*"):
            shutil.copy(path, folder)
        (folder / file).write_text(changed(build.SOURCES / file, old, new))
        place = host.Host(build.library(folder / build.KERNELS.name))
    memory, adapter = copy_of(runtime), copy_of(cuda)
    memory.current = lambda: place
    adapter.runtime, adapter.DeviceArray = memory, memory.DeviceArray
    return adapter
