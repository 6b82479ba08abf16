"""Writing files so that they are never half-written."""

import os
from pathlib import Path


def write_file(path: str | Path, content: str | bytes) -> None:
    """Writes a file and the folders above it; whenever one looks, it is the old one or the whole new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
