"""Real files behind `node.disk.Disk`.

What is durable when: `Sync` is fdatasync, which also writes the metadata that reading the bytes back needs, the file's length
included (POSIX: synchronized I/O *data* integrity); what it leaves out is times. Space is reserved ahead by posix_fallocate,
so that within the reserve an fdatasync has no new length to journal. Names are made durable by fsync of the folder.

An error is final. What a failed fsync left dirty may be gone while the kernel says success the next time, so nothing is retried:
the disk fails once and every later call raises the same DiskError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from node.disk import Append, Create, DiskError, Op, Remove, Rename, Sync, SyncDirectory, Truncate
from node.io.marks import NAME, Marks

_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_ZEROS: Final = bytes(1 << 16)

_sync_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _File:
    """An open file. `end`: where appends go; `size`: of the file, reserve included; `reserve`: step by which it
    grows; `synced`: how much of what was appended an fsync has covered."""

    __slots__ = ("end", "fd", "reserve", "size", "synced")

    def __init__(self, fd: int, size: int, reserve: int) -> None:
        self.fd = fd
        self.end = size
        self.size = size
        self.reserve = reserve
        self.synced = size


class FileDisk:
    """A folder of real files. One process at a time; threads may perform at the same time on different files.

    With `platter` (a folder beside the data, on the same file system) it also writes the marks of `node.io.marks`, from which a
    power cut can be made after the process was killed. Without it they cost nothing."""

    def __init__(self, folder: Path, platter: Path | None = None) -> None:
        """Open the folder, made if it is not there. Raises DiskError if another process has it."""
        self._folder = folder
        self._files: dict[str, _File] = {}
        self._names = threading.RLock()
        """Held by name operations, and by whoever looks in `_files`; never during a write or an fsync of a file."""
        self._failed: DiskError | None = None
        self._marks: Marks | None = None
        self._directory = -1
        self._handlers: dict[type, Callable[[Any], None]] = {
            Append: self._append,
            Sync: self._sync,
            SyncDirectory: self._sync_directory,
            Create: self._create,
            Rename: self._rename,
            Remove: self._remove,
            Truncate: self._truncate,
        }
        if not folder.is_dir():
            self._do("mkdir", ".", folder.mkdir, 0o777, True, True)
            self._do("fsync", "..", _sync_folder, folder.parent)
        self._directory = self._do("open", ".", os.open, folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._directory)
            self._directory = -1
            self._failed = DiskError(
                f"the data folder {folder} is in use by another process (flock: {error.strerror}); "
                "stop that process or use another folder"
            )
            raise self._failed from None
        if platter is not None:
            try:
                self._marks = self._do("marks", ".", Marks, folder, platter)
            except ValueError as error:
                self.close()
                raise DiskError(str(error)) from None

    def _do(self, what: str, name: str, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            raise self._fail(what, name, error) from error

    def _fail(self, what: str, name: str, error: OSError) -> DiskError:
        if self._failed is None:
            code = errno.errorcode.get(error.errno or 0, "error")
            self._failed = DiskError(
                f"{self._folder / name}: {what} failed: {code} ({error.strerror or error})"
            )
        return self._failed

    def _check(self) -> None:
        if self._failed is not None:
            raise DiskError(str(self._failed))
        if self._directory < 0:
            raise DiskError(f"{self._folder}: the disk is closed")

    # ------------------------------------------------------------------------------------------------------ Disk

    def names(self) -> list[str]:
        """The files that there are, sorted. Files whose names no operation could make are left out."""
        self._check()
        entries = self._do("listdir", ".", os.listdir, self._folder)
        return sorted(name for name in entries if NAME.fullmatch(name) and (self._folder / name).is_file())

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file, reserved zeros included; fewer than asked for at its end. Raises FileNotFoundError, DiskError."""
        self._check()
        path = self._path(name)
        try:
            fd = os.open(
                path, os.O_RDONLY | os.O_CLOEXEC
            )  # its own descriptor: another thread may remove the file
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._fail("open", name, error) from error
        try:
            if size < 0:
                size = max(0, os.fstat(fd).st_size - offset)
            parts = []
            while size > 0:
                part = os.pread(fd, min(size, 1 << 30), offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                size -= len(part)
        except OSError as error:
            raise self._fail("pread", name, error) from error
        finally:
            os.close(fd)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def perform(self, ops: Sequence[Op]) -> None:
        """Perform operations in order. Raises DiskError, after which every call raises it."""
        for op in ops:
            self._check()
            self._handlers[type(op)](op)

    def close(self) -> None:
        """Close every file and give the folder free. Syncs nothing."""
        with self._names:
            for file in self._files.values():
                os.close(file.fd)
            self._files.clear()
            if self._marks is not None:
                self._marks.close()
            if self._directory >= 0:
                os.close(self._directory)
                self._directory = -1

    # ----------------------------------------------------------------------------------------------- bytes and length

    def _path(self, name: str) -> Path:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no plain file name (letters, digits, '.', '_', '-')")
        return self._folder / name

    def _file(self, name: str) -> _File:
        with self._names:
            file = self._files.get(name)
            if file is None:
                fd = self._do("open", name, os.open, self._path(name), os.O_RDWR | os.O_CLOEXEC)
                file = self._files[name] = _File(fd, os.fstat(fd).st_size, 0)
                if self._marks is not None:
                    file.synced = self._marks.state.files[name].synced
            return file

    def _append(self, op: Append) -> None:
        file, name, data = self._file(op.name), op.name, op.data
        end = file.end + len(data)
        if end > file.size and file.reserve:
            self._allocate(name, file, end + file.reserve)
        written = self._do("pwrite", name, os.pwrite, file.fd, data, file.end)
        while written < len(data):
            rest = memoryview(data)[written:]
            more = self._do("pwrite", name, os.pwrite, file.fd, rest, file.end + written)
            if more == 0:
                raise self._fail("pwrite", name, OSError(errno.EIO, "nothing was written"))
            written += more
        file.end = end
        file.size = max(file.size, end)

    def _allocate(self, name: str, file: _File, size: int) -> None:
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fd, file.size, size - file.size)
                file.size = size
                return
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise self._fail("posix_fallocate", name, error) from error
        # A file system that cannot reserve: real zeros do the same, at the price of writing them.
        while file.size < size:
            zeros = _ZEROS[: size - file.size]
            file.size += self._do("pwrite", name, os.pwrite, file.fd, zeros, file.size)

    def _sync(self, op: Sync) -> None:
        file = self._file(op.name)
        end, size = file.end, file.size
        if self._marks is not None and end > file.synced:
            self._marks.wait_in_trap()
        self._do("fdatasync", op.name, _sync_data, file.fd)
        file.synced = end
        if self._marks is not None:
            self._do("mark", op.name, self._marks.synced, op.name, end, size)

    def _truncate(self, op: Truncate) -> None:
        file = self._file(op.name)
        if not 0 <= op.size <= file.size:
            problem = f"cannot cut {file.size} bytes to {op.size}"
            raise self._fail("ftruncate", op.name, OSError(errno.EINVAL, problem))
        if self._marks is not None and op.size < file.size:
            tail = self.read(op.name, op.size).rstrip(b"\0")
            with self._names:  # one announced operation at a time: see node.io.marks
                self._do("mark", op.name, self._marks.announce_cut, op.name, op.size, tail)
        self._do("ftruncate", op.name, os.ftruncate, file.fd, op.size)
        file.end = file.size = op.size
        file.synced = min(file.synced, op.size)
        file.reserve = op.reserve
        if op.reserve:
            self._allocate(op.name, file, op.size + op.reserve)

    # ---------------------------------------------------------------------------------------------------------- names

    def _create(self, op: Create) -> None:
        path = self._path(op.name)
        with self._names:
            if self._marks is not None and not path.exists():
                self._do("mark", op.name, self._marks.announce, "c", op.name)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = self._do("create", op.name, os.open, path, flags, 0o666)
            file = self._files[op.name] = _File(fd, 0, op.reserve)
        if op.reserve:
            self._allocate(op.name, file, op.reserve)

    def _rename(self, op: Rename) -> None:
        old, new = self._path(op.old), self._path(op.new)
        with self._names:
            if not self._do("stat", op.old, lambda: stat.S_ISREG(os.stat(old).st_mode)):
                raise self._fail("rename", op.old, OSError(errno.EINVAL, "not a file"))
            if op.old == op.new:
                return
            if self._marks is not None:
                replaces = new.exists()
                kept = self._do("mark", op.old, self._marks.announce, "r", op.old, op.new, replaces)
                if kept is not None:
                    self._do("link", op.new, os.link, new, kept)
            self._do("rename", op.old, os.rename, old, new)
            replaced = self._files.pop(op.new, None)
            if replaced is not None:
                os.close(replaced.fd)
            file = self._files.pop(op.old, None)
            if file is not None:
                self._files[op.new] = file

    def _remove(self, op: Remove) -> None:
        path = self._path(op.name)
        with self._names:
            if not path.exists():
                return
            if self._marks is None:
                self._do("unlink", op.name, os.unlink, path)
            else:
                kept = self._do("mark", op.name, self._marks.announce, "u", op.name, "-", True)
                self._do("rename", op.name, os.rename, path, kept)
            file = self._files.pop(op.name, None)
            if file is not None:
                os.close(file.fd)

    def _sync_directory(self, op: SyncDirectory) -> None:
        with self._names:
            # Only what was done before the fsync began is covered by it.
            upto = self._marks.state.number if self._marks is not None else 0
        self._do("fsync", ".", os.fsync, self._directory)
        if self._marks is not None:
            self._do("mark", ".", self._marks.directory_synced, upto)
