"""Reads checkpoints, each looked at before torch does: whole, no larger than it is, only tensors and plain values.

`torch.load(weights_only=True)` runs no code of a file. It does call what is on its own list, `bytearray` for one, with
any size that the file says, and unpacks compressed members without a limit.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

from nas_osr.errors import UserError
from nas_osr.files.storage import file_errors

# As protocol 2 writes them, the one that torch.save uses: module, a space, name.
_NAMES = re.compile(
    r"collections OrderedDict|(__builtin__|builtins) (set|complex)|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor_v2|tensor_v3|parameter)"
    r"|torch (\w+Storage|Size|device|bool|bfloat16|u?int\d+|float\w+|complex\d+)"
)
_OTHER_CALLS = frozenset({"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"})


def read_checkpoint(path: Path, tensors: bool = True) -> dict[str, Any]:
    """A checkpoint, checksums verified, tensors on the CPU, without running any code of the file (`weights_only`).

    Args:
        tensors: whether they are to be used; they are copied into memory then. Their bytes are verified either way.

    Raises:
        UserError: missing, damaged, or not a checkpoint.
    """
    import torch

    with file_errors(path, "read"):
        try:
            check_checkpoint(path)
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=not tensors)  # noqa: TID251
        except OSError as error:
            if error.errno is not None:
                raise
            raise UserError(f"{path}: damaged checkpoint") from error
        except Exception as error:  # the many ways in which a broken archive or pickle shows itself
            reason = str(error).partition("\n")[0][:100] or type(error).__name__
            raise UserError(f"{path}: damaged checkpoint ({reason})") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a checkpoint of nas-osr")
    return state


def check_checkpoint(path: Path) -> None:
    """Look at every byte of an archive of `torch.save`; nothing in it is called.

    Raises:
        ValueError: a checksum is wrong, or there is something in it that no checkpoint of ours has.
        zipfile.BadZipFile, and nearly anything else: damaged.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise ValueError("not an archive of torch.save")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("compressed")
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("larger inside than outside")
            broken = archive.testzip()
            if broken is not None:
                raise ValueError(f"wrong checksum of {broken}")
            for member in members:
                if member.filename.endswith(".pkl"):
                    check_pickle(archive.read(member))


def check_pickle(content: bytes) -> None:
    """Raise ValueError if a pickle asks for anything but what `_NAMES` describes; it is not run."""
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in _OTHER_CALLS or (operation.name == "GLOBAL" and not _NAMES.fullmatch(str(argument))):
            raise ValueError(f"it asks for {argument or operation.name}, which no checkpoint needs")
